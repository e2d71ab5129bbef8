"""Each kind of element of a logical network across two real hosts, and each edit of it, judged by packets.

One testbed for all tests, in the order of the file. A guest pings another one through the router and a tunnel
all the time, and no edit names the two: they are the same processes to the end, and lose no ping.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from logical_lab import LogicalLab
from running_lab import Lab

from hosts import TestHost, TestHosts

pytestmark = [pytest.mark.real, pytest.mark.long]

GUEST = """\
  - name: {name}
    id: {id}
    network: [{nics}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
"""
NIC = '{{switch: {switch}, ip: {ip}, gateway: {gateway}, mac: "02:00:00:00:00:{mac}"}}'
LEFT = NIC.format(switch="lan", ip='[10.66.1.10, "fd66:1::10"]', gateway="10.66.1.1", mac="0a")
RIGHT = NIC.format(switch="far", ip='[10.66.2.10, "fd66:2::10"]', gateway="10.66.2.1", mac="0b")
LEASED = NIC.format(switch="lan", ip="dynamic", gateway="10.66.1.1", mac="0c")
YAML = f"""\
machines:
{GUEST.format(name="left", id="left", nics=LEFT)}\
{GUEST.format(name="right", id="right", nics=RIGHT)}\
{GUEST.format(name="<leased>", id="leased", nics="<nics>")}\
network:
  ovn:
    switches:
      lan:
        subnet: [10.66.1.0/24, "fd66:1::/64"]
        ports:
          - {{name: near, chassis: one, internal: {{ip: <near>, mac: "02:00:00:00:00:02"}}}}
      far:
        subnet: [10.66.2.0/24, "fd66:2::/64"]
        ports:
          - {{name: away, chassis: two, internal: {{ip: [10.66.2.2, "fd66:2::2"], mac: "02:00:00:00:00:03"}}}}
      public:
        subnet: 172.16.1.0/24
        ports: [{{name: <localnet>, localnet: {{network_name: public}}}}]
      <switch>
    routers:
      r:
        ports:
          - {{name: to-lan, switch: lan,
             gateway_ip: [10.66.1.1/24, "fd66:1::1/64"], mac: "02:00:00:00:01:01"}}
          - {{name: to-far, switch: far,
             gateway_ip: [10.66.2.1/24, "fd66:2::1/64"], mac: "02:00:00:00:01:02"}}
          - {{name: to-out, switch: public, gateway_ip: 172.16.1.200/24, mac: "02:00:00:00:01:03",
             set_gateway_chassis: <gateway>}}
          <port>
        static_routes:
          - {{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}}
          <route>
        nat:
          - {{nat_type: snat, external_ip: <snat>, logical_ip: 10.66.0.0/16}}
          - {{nat_type: dnat_and_snat, external_ip: <dnat>, logical_ip: 10.66.2.10}}
        dhcp: [{{switch: lan, exclude_ips: {{from: 10.66.1.1, to: <excluded>}}}}]
    acl: <acl>
testbed_options:
  management: true
  placement: {{pin: {{left: one, right: two, <leased>: two}}}}
"""
FIELDS = {
    "leased": "leased", "nics": LEASED, "near": "10.66.1.2", "localnet": "out", "switch": "", "port": "",
    "route": "", "gateway": "one", "snat": "172.16.1.200", "dnat": "172.16.1.201", "excluded": "10.66.1.20",
    "acl": "{}",
}  # fmt: skip
#: A switch with its port of the router and an interface of the second host.
SWITCH = (
    "new: {subnet: 10.66.3.0/24, ports: [{name: there, chassis: two, "
    'internal: {ip: 10.66.3.2, mac: "02:00:00:00:00:04"}}]}'
)
PORT = '- {name: to-new, switch: new, gateway_ip: %s/24, mac: "02:00:00:00:01:%s"}'
#: What a rule of each action does to a connection.
ACTIONS = {
    "allow-related": "open", "allow-stateless": "open", "allow": "open", "drop": "silent",
    "reject": "refused",
}  # fmt: skip
WAYS = ("from-lport", "to-lport")
PORTS = range(8001, 8001 + len(ACTIONS))
#: Ask for an address by DHCP, and do nothing with it.
LEASE = ("sudo", "-n", "sh", "-c", "udhcpc -i eth0 -n -q -s /bin/true 2>&1")
#: A server that reports the address of each client.
SERVER = """\
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.client_address[0].encode())
import threading, sys
socketserver.ThreadingTCPServer.allow_reuse_address = True
for port in sys.argv[1:]:
    server = socketserver.ThreadingTCPServer(("", int(port)), Handler)
    threading.Thread(target=server.serve_forever).start()
"""
#: How connections to an address end, each to one port.
CONNECT = """\
import socket, sys, json
from concurrent.futures import ThreadPoolExecutor
def end(port):
    try:
        with socket.create_connection((sys.argv[1], int(port)), 3) as connection:
            return "open" if connection.recv(100) else "empty"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"
with ThreadPoolExecutor(20) as pool:
    print(json.dumps(list(pool.map(end, sys.argv[2:]))))
"""


class Elements(LogicalLab):
    """The testbed, the values that its YAML has, and its pings."""

    def start(self) -> None:
        self.fields = dict(FIELDS)
        self.servers: list[subprocess.Popen[bytes]] = []
        self.project.run("up", timeout=900)
        self.pings = Lab(self.project, self.hosts)
        self.pings.start_pings()
        self.join()

    def join(self) -> None:
        """Give the hosts routes to the other switch, and servers; they have neither after a reboot."""
        one, two = self.hosts
        one.run(["ip", "route", "replace", "10.66.2.0/23", "via", "10.66.1.1"])
        two.run(["ip", "route", "replace", "10.66.1.0/24", "via", "10.66.2.1"])
        two.run(["ip", "-6", "route", "replace", "fd66:1::/64", "via", "fd66:2::1"])
        self.stop()
        words = [sys.executable, "-c", SERVER, *map(str, PORTS)]
        self.servers = [host.popen(words) for host in self.hosts]
        for host in self.hosts:
            wait_for_ping(host, "127.0.0.1")

    def stop(self) -> None:
        for server in self.servers:
            server.terminate()
            server.wait(10)

    def edit(self, restarted: Collection[str] = (), **fields: str) -> str:
        """Edit and `up`: nothing restarts but these guests, and no ping is lost."""
        self.fields |= fields
        self.project.write("kvm-compose.yaml", filled(self.fields))
        before = self.processes()
        said = self.project.run("up", timeout=900).stderr
        after = self.processes()
        other = {name for name in before if after.get(name) != before[name]}
        assert other == set(restarted), said
        missing = self.pings.lost_pings()
        assert missing <= self.pings.tolerated, f"{missing} pings lost: {said}"
        return said

    def peer(self, guest: str, address: str) -> str:
        """Return as whom a server sees a guest."""
        return self.project.inside(guest, "sh", "-c", f"nc -w 3 {address} {PORTS[0]} </dev/null")


def filled(fields: dict[str, str]) -> str:
    return re.sub(r"<(\w+)>", lambda found: fields[found[1]], YAML)


def wait_for_ping(host: TestHost, address: str, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not pings(host, address):
        assert time.monotonic() < end, f"{address} does not answer {host.name}"


def pings(host: TestHost, address: str) -> bool:
    return host.run(["ping", "-c1", "-W1", address], check=False).returncode == 0


def connections(host: TestHost, address: str, *ports: int) -> list[str]:
    """Return how connections from a host end: open, refused or silent."""
    done = host.run([sys.executable, "-c", CONNECT, address, *map(str, ports)])
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, micro_image: Path, ssh_key: Path) -> Iterator[Elements]:
    root = tmp_path_factory.mktemp("el")
    shutil.copy(ssh_key, root / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), root / "key.pub")
    (root / "micro.qcow2").symlink_to(micro_image)
    with TestHosts(2, directory=root / "hosts", ssh=True, tunnels=True, ovn=True) as hosts:
        lab = Elements(hosts, 2, root, "elem", filled(FIELDS))
        lab.start()
        try:
            yield lab
        finally:
            lab.stop()


def test_every_element_carries_packets_across_hosts(lab: Elements) -> None:
    one, two = lab.hosts
    lab.reaches("left", {"right", "leased", "10.66.2.2", "172.16.1.1"})
    for name in ("right", "right.elem", "leased"):
        assert lab.resolves("left", name)
    lab.reaches("leased", {"left", "right", "10.66.1.2", "172.16.1.1"})
    lab.reaches("left", {"fd66:2::10", "fd66:2::2"}, {"fd66:2::99"}, "-6")
    for host, address in (
        (one, "10.66.1.10"),
        (one, "10.66.2.10"),
        (two, "10.66.1.10"),
        (one, "172.16.1.201"),
    ):
        wait_for_ping(host, address)
    assert lab.peer("left", "10.66.2.2") == "10.66.1.10"  # not translated between switches
    assert lab.peer("left", "172.16.1.1") == "172.16.1.200"
    assert connections(one, "172.16.1.201", 22) == ["open"]
    lease = lab.project.inside("leased", *LEASE)
    assert f"lease of {lab.pings.addresses('leased')[0]} obtained" in lease


def test_a_switch_with_a_port_of_the_router(lab: Elements) -> None:
    one = lab.hosts[0]
    lab.edit(switch=SWITCH, port=PORT % ("10.66.3.1", "04"))
    wait_for_ping(one, "10.66.3.2")
    lab.edit(port=PORT % ("10.66.3.254", "05"))
    assert not pings(one, "10.66.3.1")
    wait_for_ping(one, "10.66.3.2")
    lab.edit(switch="", port="")
    assert not pings(one, "10.66.3.2")


def test_ports_of_hosts_and_of_provider_networks(lab: Elements) -> None:
    one, two = lab.hosts
    lab.edit(near="10.66.1.3")
    one.run(["ip", "route", "replace", "10.66.2.0/23", "via", "10.66.1.1"])
    wait_for_ping(two, "10.66.1.3")
    assert not pings(two, "10.66.1.2")
    lab.edit(localnet="uplink", near="10.66.1.2")
    one.run(["ip", "route", "replace", "10.66.2.0/23", "via", "10.66.1.1"])
    wait_for_ping(one, "172.16.1.201")
    wait_for_ping(one, "10.66.2.2")


def test_the_gateway_moves_to_another_host(lab: Elements) -> None:
    one, two = lab.hosts
    lab.edit(gateway="two")
    wait_for_ping(two, "172.16.1.201")
    assert "br-ex" not in one.run(["ovs-vsctl", "list-br"]).stdout.split()
    assert lab.peer("left", "172.16.1.1") == "172.16.1.200"
    lab.edit(gateway="one")
    wait_for_ping(one, "172.16.1.201")
    assert "br-ex" not in two.run(["ovs-vsctl", "list-br"]).stdout.split()


def test_static_routes(lab: Elements) -> None:
    one, two = lab.hosts
    two.run(["ip", "address", "add", "10.99.0.1/32", "dev", "lo"])
    one.run(["ip", "route", "replace", "10.99.0.0/24", "via", "10.66.1.1"])
    assert not pings(one, "10.99.0.1")
    lab.edit(route="- {prefix: 10.99.0.0/24, nexthop: 10.66.2.2}")
    wait_for_ping(one, "10.99.0.1")
    lab.edit(route="- {prefix: 10.99.0.0/24, nexthop: 10.66.2.10}")  # a guest that does not forward
    assert not pings(one, "10.99.0.1")
    lab.edit(route="")
    assert not pings(one, "10.99.0.1")


def test_translated_addresses(lab: Elements) -> None:
    one = lab.hosts[0]
    lab.edit(snat="172.16.1.210")
    assert lab.peer("left", "172.16.1.1") == "172.16.1.210"
    lab.edit(snat="172.16.1.200", dnat="172.16.1.202")
    wait_for_ping(one, "172.16.1.202")
    assert not pings(one, "172.16.1.201")
    assert lab.peer("left", "172.16.1.1") == "172.16.1.200"
    lab.edit(dnat="172.16.1.201")


def test_excluded_addresses_of_dhcp(lab: Elements) -> None:
    address = lab.pings.addresses("leased")[0]
    assert int(address.rpartition(".")[2]) > 20
    lab.edit(excluded="10.66.1.19")  # the guest's address is outside both
    lease = lab.project.inside("leased", *LEASE)
    assert f"lease of {address} obtained" in lease


@pytest.mark.parametrize("switch", ["lan", "far"])
def test_each_action_of_rules(lab: Elements, switch: str) -> None:
    """From the port where packets enter, and to the one where they leave."""
    direction, back = WAYS if switch == "lan" else reversed(WAYS)
    for first in (0, 2):
        ports = [PORTS[(number + first) % len(PORTS)] for number in range(len(PORTS))]
        found = ", ".join(
            f"{{direction: {direction}, priority: 1000, match: tcp.dst == {port}, action: {action}}}"
            for port, action in zip(ports, ACTIONS, strict=True)
        )
        stateless = ports[list(ACTIONS).index("allow-stateless")]  # needs a rule for replies
        reply = f"direction: {back}, priority: 1000, match: tcp.src == {stateless}, action: allow-stateless"
        found = f"{found}, {{{reply}}}"
        lab.edit(acl=f"{{switches: {{{switch}: [{found}]}}}}")
        assert connections(lab.hosts[0], "10.66.2.2", *ports) == list(ACTIONS.values())
    lab.edit(acl="{}")
    assert connections(lab.hosts[0], "10.66.2.2", *PORTS) == ["open"] * len(PORTS)
