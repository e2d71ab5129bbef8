"""Real packets through a real OVN: runs as root in namespaces of its own, and answers requests on stdin.

    unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private python FILE

One chassis with everything: both databases, northd, ovn-controller, Open vSwitch in user space. Guests are
network namespaces, the outside is the namespace of the chassis, with a bridge to the provider network.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hosts import daemons, ovn
from kvmcompose.reachability.jsonrpc import JsonRpc

GUESTS, NICS = 5, 2
#: The next hops of the provider network, and the address outside that is asked.
HOPS, OUTSIDE = ("172.16.1.1/24", "172.16.1.77/24"), "203.0.113.1"
ROOTS = ("Logical_Switch", "Logical_Router", "Static_MAC_Binding")
#: When packets are sent again, and when what has not arrived never will, in seconds.
AGAIN, DEADLINE = (0.3, 0.7), 1.5
STEP_SECONDS = 30
SWITCH = Path("/run/openvswitch/ovs-vswitchd.pid")
LOGS = Path("/var/log")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv: str, given: str = "") -> str:
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=STEP_SECONDS, input=given
    )
    if done.returncode != 0:
        raise RuntimeError(f"{argv}: {done.stdout}{done.stderr}")
    return done.stdout


def start() -> None:
    """Start the daemons and make the namespaces of the guests."""
    for folder in (
        "/run/openvswitch",
        "/run/ovn",
        "/run/netns",
        "/etc/openvswitch",
        "/var/lib/ovn",
        "/var/log",
    ):
        Path(folder).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", folder)
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    run("ip", "link", "set", "lo", "up")
    daemons.start_openvswitch(LOGS, "main")
    ovn.start_central(LOGS)
    run(
        "ovs-vsctl", "add-br", "br-ex", "--", "set", "bridge", "br-ex", "datapath_type=netdev", "--",
        "set", "open", ".",
        "external_ids:ovn-remote=unix:/run/ovn/ovnsb_db.sock", "external_ids:ovn-encap-type=geneve",
        "external_ids:ovn-encap-ip=127.0.0.1", "external_ids:ovn-bridge-mappings=public:br-ex",
    )  # fmt: skip
    for hop in HOPS:
        run("ip", "address", "add", hop, "dev", "br-ex")
    run("ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo")
    run("ip", "link", "set", "br-ex", "up")
    run("ethtool", "-K", "br-ex", "tx", "off")
    ovn.start_controller(LOGS)
    run("ovn-nbctl", "--wait=hv", "--timeout=20", "sync")
    allow_pings()
    for guest in range(GUESTS):
        run("ip", "netns", "add", f"g{guest}")
        with inside(f"g{guest}"):
            allow_pings()
            for interface in ("all", "default"):
                Path(f"/proc/sys/net/ipv4/conf/{interface}/rp_filter").write_text("0")
            run("ip", "link", "set", "lo", "up")
        for number in range(NICS):
            device = f"g{guest}n{number}"
            run("ovs-vsctl", "add-port", "br-int", device, "--", "set", "interface", device, "type=internal")
            run("ip", "link", "set", device, "netns", f"g{guest}")
            run("ip", "netns", "exec", f"g{guest}", "ethtool", "-K", device, "tx", "off")


def allow_pings() -> None:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Work in a network namespace; '' is that of the chassis."""
    if not namespace:
        yield
        return
    with Path("/proc/self/ns/net").open() as back, Path("/run/netns", namespace).open() as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(back.fileno())


def enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Network:
    """The network in force, replaced by each request."""

    def __init__(self) -> None:
        self._northbound = JsonRpc(Path("/run/ovn/ovnnb_db.sock"), STEP_SECONDS)
        self._southbound = JsonRpc(Path("/run/ovn/ovnsb_db.sock"), STEP_SECONDS)
        self._generation = 100

    def load(self, inserts: list[Any], nics: list[dict[str, Any]], neighbours: list[list[str]]) -> None:
        """Bring rows into force, and give guests their interfaces.

        Routers are given the MAC address of the outside: when networks follow each other this fast, they do
        not always learn it in time.
        """
        mac = Path("/sys/class/net/br-ex/address").read_text().strip()
        inserts += [
            {
                "op": "insert",
                "table": "Static_MAC_Binding",
                "row": {"logical_port": port, "ip": address, "mac": mac},
            }
            for port, address in neighbours
        ]
        self.transact([*({"op": "delete", "table": table, "where": []} for table in ROOTS), *inserts])
        self.attach(nics)
        if not any(self.is_in_force() for _ in range(3)):
            raise RuntimeError("the network does not come into force")
        self.await_ports({nic["port"] for nic in nics})
        self._southbound.call(
            "transact", "OVN_Southbound", {"op": "delete", "table": "MAC_Binding", "where": []}
        )
        run("ovs-appctl", "dpctl/flush-conntrack")

    def is_in_force(self) -> bool:
        """Wait until ovn-controller has done everything; with a write, as a number alone may be dropped."""
        self._generation += 1
        row = {"nb_cfg": self._generation, "external_ids": ["map", [["generation", str(self._generation)]]]}
        self.transact([{"op": "update", "table": "NB_Global", "where": [], "row": row}])
        wait = {
            "op": "wait", "table": "NB_Global", "where": [], "columns": ["hv_cfg"], "until": "==",
            "rows": [{"hv_cfg": self._generation}], "timeout": 5000,
        }  # fmt: skip
        (result,) = self._northbound.call("transact", "OVN_Northbound", wait)
        return "error" not in result

    def transact(self, operations: list[Any]) -> list[Any]:
        results: list[Any] = self._northbound.call("transact", "OVN_Northbound", *operations)
        for result in results:
            if result is None or "error" in result:
                raise RuntimeError(f"{results}")
        return results

    def attach(self, nics: list[dict[str, Any]]) -> None:
        ports = {nic["device"]: nic for nic in nics}
        argv = ["ovs-vsctl"]
        for guest in range(GUESTS):
            for number in range(NICS):
                device = f"g{guest}n{number}"
                nic = ports.get(device)
                change = ["remove", "interface", device, "external_ids", "iface-id"] if nic is None else [
                    "set", "interface", device, f"external_ids:iface-id={nic['port']}"
                ]  # fmt: skip
                argv += ["--", *change]
        run(*argv)
        for guest in range(GUESTS):
            devices = [f"g{guest}n{number}" for number in range(NICS)]
            lines = [f"address flush dev {device}\nlink set {device} down" for device in devices]
            for device in devices:
                if device in ports:
                    nic = ports[device]
                    lines += [f"link set {device} address {nic['mac']}", f"link set {device} up"]
                    lines += [f"address add {each} dev {device}" for each in nic["addresses"]]
                    lines += [f"route add default via {each}" for each in nic["gateways"]]
            run("ip", "-n", f"g{guest}", "-force", "-batch", "-", given="\n".join(lines))

    def await_ports(self, names: set[str]) -> None:
        deadline = time.monotonic() + STEP_SECONDS
        select = {"op": "select", "table": "Logical_Switch_Port", "where": [], "columns": ["name", "up"]}
        while True:
            (found,) = self.transact([select])
            up = {row["name"] for row in found["rows"] if row["up"] is True}
            if names <= up:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"not up: {names - up}")
            time.sleep(0.02)


Question = tuple[str, str, str, str, str, int]


class Probes:
    """Packets on their way.

    A question is: namespace, address, the target's namespace and own address, protocol, port.
    """

    def __init__(self, questions: list[Question]) -> None:
        self._questions = questions
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._clients: list[socket.socket] = []
        self._answered = [False] * len(questions)

    def answers(self) -> list[bool]:
        """Send everything at once, and return which questions are answered."""
        for space, own, protocol, port in sorted({each[2:] for each in self._questions}):
            if protocol != "icmp":
                self._sockets.append(server(space, own, protocol, port))
                self._selector.register(self._sockets[-1], selectors.EVENT_READ, serve)
        self._begin()
        began = time.monotonic()
        again = list(AGAIN)
        while (now := time.monotonic() - began) < DEADLINE and not all(self._answered):
            if again and now > again[0]:
                again.pop(0)
                self._repeat()
            for key, _ in self._selector.select(0.02):
                if isinstance(key.data, int):
                    self._receive(key.data)
                else:
                    key.data(key.fileobj)
        for each in (*self._sockets, *self._clients):
            each.close()
        self._selector.close()
        return self._answered

    def _begin(self) -> None:
        for number, (space, address, _, _, protocol, port) in enumerate(self._questions):
            self._clients.append(client(space, protocol))
            if send(self._clients[-1], protocol, address, port):
                event = selectors.EVENT_WRITE if protocol == "tcp" else selectors.EVENT_READ
                self._selector.register(self._clients[-1], event, number)

    def _repeat(self) -> None:
        for number, (_, address, _, _, protocol, port) in enumerate(self._questions):
            if protocol != "tcp" and not self._answered[number]:
                send(self._clients[number], protocol, address, port)

    def _receive(self, number: int) -> None:
        self._answered[number] = is_answer(self._clients[number], self._questions[number])
        self._selector.unregister(self._clients[number])


def is_answer(connection: socket.socket, question: Question) -> bool:
    if question[4] == "tcp":
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    try:
        return bool(connection.recvfrom(1000)[1][0] == question[1])
    except OSError:  # ICMP said that it cannot be reached
        return False


def server(space: str, address: str, protocol: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(space):
        made = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    if protocol == "tcp":
        made.listen(64)
    made.setblocking(False)
    return made


def serve(made: socket.socket) -> None:
    if made.type == socket.SOCK_STREAM:
        made.accept()[0].close()
    else:
        data, sender = made.recvfrom(1000)
        with suppress(OSError):  # no route back
            made.sendto(data, sender)


def client(space: str, protocol: str) -> socket.socket:
    kinds = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "icmp": (socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    }
    with inside(space):
        made = socket.socket(socket.AF_INET, *kinds[protocol])
    if not space:
        made.bind((OUTSIDE, 0))
    made.setblocking(False)
    return made


def send(made: socket.socket, protocol: str, address: str, port: int) -> bool:
    """Send, or begin to connect. Returns False when there is no route."""
    if protocol == "tcp":
        return made.connect_ex((address, port)) in (0, errno.EINPROGRESS)
    ping = bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b"probe"
    try:
        made.sendto(b"probe" if protocol == "udp" else ping, (address, port))
    except OSError:
        return False
    return True


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    start()
    network = Network()
    switch = SWITCH.read_text()
    say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        network.load(request["inserts"], request["nics"], request["neighbours"])
        loaded = time.monotonic()
        answered = Probes([(*each,) for each in request["questions"]]).answers()
        if SWITCH.read_text() != switch:  # it crashed, and the guests' interfaces are gone
            sys.exit("ovs-vswitchd crashed")
        took = {"load": loaded - began, "probe": time.monotonic() - loaded}
        say(json.dumps({"answered": answered, "took": took}))


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    main()
