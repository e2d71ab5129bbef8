"""OVN has the last word on management ports: SSH passes whatever the rules of the YAML, nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from golden.memory import MemoryFiles, compile_text, host
from kvmcompose.core.project import FileKind
from kvmcompose.core.state import State
from kvmcompose.networks import dialect
from kvmcompose.networks.ovn import northbound
from kvmcompose.reachability.throwaway import Throwaway, throwaway
from kvmcompose.reachability.trace import read_trace

pytestmark = pytest.mark.real

GUEST = """\
  - name: {name}
    network: [{{switch: lan, ip: 10.0.0.{last}, mac: "00:00:00:00:00:{last}"}}]
    libvirt: {{cpus: 1, memory_mb: 64, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
"""
YAML = (
    "machines:\n"
    + "".join(GUEST.format(name=name, last=last) for name, last in (("web", 10), ("db", 11)))
    + "network:\n  ovn:\n    switches: {lan: {subnet: 10.0.0.0/24}}\n    acl: "
)
RULES = {
    "none": "{}",
    "deny all": "{apply_deny_all: true}",
    "drop everything": (
        "{switches: {lan: [{direction: from-lport, priority: 32766, match: '1', action: drop},"
        " {direction: to-lport, priority: 32766, match: '1', action: drop}]}}"
    ),
    "stateful": (
        "{apply_deny_all: true, switches: {lan:"
        " [{direction: from-lport, priority: 9, match: ip, action: allow-related}]}}"
    ),
    "of senders alone": "{switches: {lan: [{direction: from-lport, priority: 9, match: ip, action: drop}]}}",
    "not stateful": (
        "{switches: {lan: [{direction: to-lport, priority: 9, match: tcp.dst == 80, action: allow},"
        " {direction: to-lport, priority: 1, match: ip, action: drop}]}}"
    ),
}


class _Files(MemoryFiles):
    def kind(self, path: str) -> FileKind:
        return FileKind.FILE

    def image_names(self) -> tuple[str, ...]:
        return ("debian_12",)


def compiled(acl: str, management: str) -> State:
    text = f"{YAML}{acl}\ntestbed_options: {{management: {management}}}\n"
    return compile_text(text, files=_Files(), on=(host("one"),)).state


class Bench:
    """A network in OVN, with names for those who send and receive."""

    def __init__(self, state: State, ovn: Throwaway) -> None:
        self._ovn = ovn
        guests = {name: each.interfaces[0] for name, each in state.testbed_guests.items()}
        self._ends: dict[str, tuple[str, str, str]] = {
            name: (str(nic.interface_id), nic.mac, nic.ip) for name, nic in guests.items()
        }
        found = network_port(state)
        if found is not None:
            self._ends["server"] = found
        self._switch = state.network.switches["lan"].name

    def arrives(self, source: str, target: str, what: str, ct: str = "new", mac: str = "") -> bool:
        """Return whether a packet arrives at its target. With ``mac`` it is sent to another one."""
        (port, own_mac, ip), (goal, goal_mac, goal_ip) = self._ends[source], self._ends[target]
        fields = f'inport == "{port}" && eth.src == {own_mac} && eth.dst == {mac or goal_mac}'
        fields += f" && ip4.src == {ip} && ip4.dst == {goal_ip} && ip.ttl == 64 && {what}"
        sent = {"eth.src": own_mac, "eth.dst": mac or goal_mac, "ip4.src": ip, "ip4.dst": goal_ip}
        trace = read_trace(self._ovn.tracer(ct).trace(self._switch, fields), sent)
        assert {each.port for each in trace.outputs} <= {goal}
        return bool(trace.outputs)

    def resolves(self, source: str, target: str) -> bool:
        """Return whether the question for a MAC address is answered."""
        (port, mac, ip), (_, goal_mac, goal_ip) = self._ends[source], self._ends[target]
        fields = (
            f'inport == "{port}" && eth.src == {mac} && eth.dst == ff:ff:ff:ff:ff:ff && arp.op == 1'
            f" && arp.sha == {mac} && arp.spa == {ip} && arp.tpa == {goal_ip}"
        )
        trace = self._ovn.tracer("new").trace(self._switch, fields)
        return f'output to "{port}"' in trace and f"eth.src = {goal_mac}" in trace

    @property
    def mac_of_db(self) -> str:
        return self._ends["db"][1]


def network_port(state: State) -> tuple[str, str, str] | None:
    for row in northbound(state):
        if row.columns.get("type") == "localport":
            addresses: Any = row.columns["addresses"]
            mac, ip = addresses[0].split()
            return str(row.columns["name"]), mac, ip
    return None


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def acl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bench(acl: str) -> Iterator[Bench]:
    state = compiled(acl, "true")
    assert dialect("ovn").network_plan(state).management.keys() == {"web", "db"}
    with throwaway(northbound(state), ()) as ovn:
        assert ovn.unparsed() == []
        yield Bench(state, ovn)


def test_ssh_passes_whatever_the_rules_are(bench: Bench, acl: str) -> None:
    assert bench.resolves("server", "web")
    assert bench.resolves("web", "server")
    assert bench.arrives("server", "web", "tcp && tcp.src == 40000 && tcp.dst == 22")
    assert bench.arrives("web", "server", "tcp && tcp.src == 22 && tcp.dst == 40000", ct="est,rpl")
    if acl != "{}":
        assert not bench.arrives("server", "web", "tcp && tcp.src == 40000 && tcp.dst == 23")
        assert not bench.arrives("web", "server", "tcp && tcp.src == 40000 && tcp.dst == 22")
        # not by the server's address to another guest
        packet = "tcp && tcp.src == 22 && tcp.dst == 81"
        assert not bench.arrives("web", "server", packet, mac=bench.mac_of_db)


def test_between_guests_nothing_changes(bench: Bench, acl: str) -> None:
    packets = [
        (f"tcp && tcp.src == {source} && tcp.dst == {target}", ct)
        for source, target in ((40000, 22), (22, 40000), (40000, 80), (80, 40000))
        for ct in ("new", "est,rpl")
    ]
    state = compiled(acl, "false")
    with throwaway(northbound(state), ()) as ovn:
        without = Bench(state, ovn)
        for packet, ct in packets:
            before = without.arrives("web", "db", packet, ct)
            assert bench.arrives("web", "db", packet, ct) == before, (packet, ct)
        assert bench.resolves("web", "db") == without.resolves("web", "db")
