"""A logical network with one element of each kind across two hosts, and the packets that judge it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Collection

from logical_lab import LogicalLab
from running_lab import Lab

from hosts import TestHost

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
#: The ports of the servers on both hosts.
PORTS = range(8001, 8006)
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
        self.running = self.switches()

    def switches(self) -> list[str]:
        """Return the processes of Open vSwitch: in user space 3.1 aborts at times, in its conntrack."""
        return [host.run(["cat", "/run/openvswitch/ovs-vswitchd.pid"]).stdout.strip() for host in self.hosts]

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
        assert self.switches() == self.running, "Open vSwitch aborted"
        other = {name for name in before if after.get(name) != before[name]}
        assert other == set(restarted), said
        missing = self.pings.lost_pings()
        assert missing <= self.pings.tolerated, f"{missing} pings lost: {said}"
        return said

    def repair(self) -> None:
        """`up` without an edit."""
        left = self.processes()["left"]
        self.project.run("up", timeout=900)
        assert self.processes()["left"] == left
        self.recovered()

    def recovered(self) -> None:
        """After pings were lost: nothing differs, and all kinds of targets are reached again."""
        assert self.differences() == []
        self.join()
        self.reaches("left", {"right", self.fields["leased"], "10.66.2.2", "172.16.1.1"})
        wait_for_ping(self.hosts[0], "172.16.1.201")
        assert self.pings.lost_pings() > 0

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
