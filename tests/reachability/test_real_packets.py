"""What the oracle says about random small networks is what real packets do in a real OVN."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from ovn_lab import OUTSIDE, Lab

from kvmcompose.core.expectation import INTERNET, PING, Traffic
from kvmcompose.reachability.oracle import OvnOracle, outside_neighbours
from kvmcompose.reachability.rows import insertion

pytestmark = [pytest.mark.real, pytest.mark.long]

PROBES = (PING, Traffic("tcp", 80), Traffic("tcp", 81), Traffic("udp", 53))
OUTSIDE_ADDRESS = "203.0.113.1"
EXAMPLES = 300 if os.environ.get("KVM_COMPOSE_TEST_LONG") else 15


class RealPackets:
    """The program that sends them, in namespaces that end with it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        unshare = "unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private"
        agent = Path(__file__).with_name("real_packets.py")
        self._process = subprocess.Popen(
            [*unshare.split(), sys.executable, agent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, lab: Lab, questions: list[tuple[str, str, str, str, Traffic]]) -> list[bool]:
        """Return which questions are answered: source, address, target, its own address, probe."""
        spaces = {guest: f"g{number}" for number, guest in enumerate(lab.guests)} | {INTERNET: ""}
        used: dict[str, int] = {}
        nics = []
        for nic in lab.nics:
            number = used[nic.guest] = used.get(nic.guest, -1) + 1
            nics.append({
                "device": f"{spaces[nic.guest]}n{number}",
                "port": nic.port,
                "mac": nic.mac,
                "addresses": [str(each) for each in nic.addresses],
                "gateways": [str(each) for each in nic.gateways],
            })  # fmt: skip
        asked = [
            [spaces[source], address, spaces[target], own, probe.protocol, probe.port]
            for source, address, target, own, probe in questions
        ]
        request = {
            "inserts": insertion(lab.rows)[2:],
            "nics": nics,
            "neighbours": [(each.router_port, each.address) for each in outside_neighbours(lab.rows)],
            "questions": asked,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._line()
        if not line:  # Open vSwitch 3.1 in user space crashes with some networks
            self.end()
            self._start()
            hypothesis.reject()
        answered: list[bool] = json.loads(line)["answered"]
        return answered

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def packets() -> Iterator[RealPackets]:
    made = RealPackets()
    yield made
    made.end()


@st.composite
def labs(draw: st.DrawFn) -> Lab:
    """Networks of one to three switches, none to two routers, some guests, and rules of all kinds."""
    lab = Lab()
    switches = [f"s{number}" for number in range(draw(st.integers(1, 3)))]
    for name in switches:
        lab.switch(name)
    outside = draw(st.booleans())
    if outside:
        lab.switch("pub")
        lab.localnet("pub")
    routers = [f"r{number}" for number in range(draw(st.integers(0, 2)))]
    for number in range(len(routers)):
        _router(draw, lab, number, switches, outside=outside)
    for number in range(draw(st.integers(2, 4))):
        _guest(draw, lab, f"guest{number}", switches, routers, outside=outside)
    if outside and routers:
        _nat(draw, lab, switches)
    _acls(draw, lab, [*switches, *(["pub"] if outside else [])])
    return lab


def _router(draw: st.DrawFn, lab: Lab, number: int, switches: list[str], *, outside: bool) -> None:
    router = f"r{number}"
    lab.router(router)
    linked = draw(st.lists(st.sampled_from(switches), min_size=1, unique=True))
    for switch in linked:
        lab.link(router, switch, f"10.0.{switch[1]}.{number + 1}/24")
    is_edge = outside and number == 0
    if is_edge:
        lab.link(router, "pub", "172.16.1.200/24", gateway=True)
    for target in draw(st.lists(st.sampled_from(["default", *switches]), max_size=2, unique=True)):
        if target == "default":
            hops = [str(OUTSIDE.ip), "172.16.1.77"] if is_edge else ["10.0.0.1", "10.0.0.2"]
            lab.route(router, "0.0.0.0/0", draw(st.sampled_from(hops)))
        elif target not in linked:
            via = draw(st.sampled_from(linked))
            lab.route(router, f"10.0.{target[1]}.0/24", f"10.0.{via[1]}.{2 - number}")


def _nat(draw: st.DrawFn, lab: Lab, switches: list[str]) -> None:
    for switch in draw(st.lists(st.sampled_from(switches), max_size=2, unique=True)):
        lab.nat("r0", "snat", "172.16.1.200", f"10.0.{switch[1]}.0/24")
    inner = [str(nic.addresses[0].ip) for nic in lab.nics]
    inner = [address for address in inner if address.startswith("10.")]
    chosen = draw(st.lists(st.sampled_from(inner), max_size=2, unique=True)) if inner else []
    for number, address in enumerate(chosen):
        lab.nat("r0", "dnat_and_snat", f"172.16.1.{110 + number}", address)


def _guest(
    draw: st.DrawFn, lab: Lab, name: str, switches: list[str], routers: list[str], *, outside: bool
) -> None:
    places = draw(
        st.lists(
            st.sampled_from([*switches, *(["pub"] if outside else [])]), min_size=1, max_size=2, unique=True
        )
    )
    last = 10 + len(lab.nics)
    has_gateway = False
    for place in places:
        prefix = "172.16.1" if place == "pub" else f"10.0.{place[1]}"
        hops = [f"{prefix}.1", f"{prefix}.2"]
        if place == "pub":
            hops = ["172.16.1.1", "172.16.1.200" if routers else "172.16.1.77"]
        gateway = None if has_gateway else draw(st.sampled_from([hops[0], hops[0], hops[1], None]))
        has_gateway = has_gateway or gateway is not None
        lab.guest(name, place, f"{prefix}.{last}/24", gateway)


def _acls(draw: st.DrawFn, lab: Lab, switches: list[str]) -> None:
    for switch in switches:
        if draw(st.integers(0, 2)) == 0:
            continue
        addresses = [str(nic.addresses[0].ip) for nic in lab.nics]
        subjects = st.sampled_from(
            [
                "ip4",
                "tcp",
                "tcp.dst == 80",
                "tcp.dst == 80",
                "udp.dst == 53",
                "icmp4",
                "icmp4.type == 8",
                "arp",
                "1",
                *(f"ip4.src == {address}" for address in addresses),
                *(f"ip4.dst == {address}" for address in addresses),
                "ip4.src == 10.0.0.0/24 && tcp",
                f"ip4.dst == {OUTSIDE_ADDRESS}",
            ]
        )
        ports = [nic.port for nic in lab.nics]
        for priority in draw(st.lists(st.integers(1000, 1005), max_size=4, unique=True)):
            direction = draw(st.sampled_from(["to-lport", "from-lport"]))
            match = draw(subjects)
            if draw(st.booleans()):
                field = "outport" if direction == "to-lport" else "inport"
                match = f'{field} == "{draw(st.sampled_from(ports))}" && {match}'
            action = draw(
                st.sampled_from(
                    ["drop", "drop", "reject", "allow", "allow-related", "allow-related", "allow-stateless"]
                )
            )
            lab.acl(switch, direction, priority, match, action)


def questions(lab: Lab, oracle: OvnOracle) -> list[tuple[str, str, str, str, Traffic]]:
    """Return every guest and the outside, to each address of every other."""
    found = []
    for source in (*lab.guests, INTERNET):
        for target in (*lab.guests, INTERNET):
            if source == target:
                continue
            own = [str(each.ip) for nic in lab.nics if nic.guest == target for each in nic.addresses]
            addresses = {address: address for address in own or [OUTSIDE_ADDRESS]}
            for address in own:
                for nat in oracle._network.external_addresses(ipaddress.ip_address(address)):
                    addresses[str(nat.external)] = address
            found += [
                (source, address, target, inner, probe)
                for address, inner in addresses.items()
                for probe in PROBES
            ]
    return found


@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
@hypothesis.given(lab=labs())
def test_real_packets_go_where_the_oracle_says(packets: RealPackets, lab: Lab) -> None:
    with lab.oracle() as oracle:
        assert oracle._ovn.unparsed() == []
        asked = questions(lab, oracle)
        said: list[tuple[bool, str]] = []
        for source, address, target, _, probe in asked:
            known = {str(each) for each in oracle._addresses(source, target)}
            answer = oracle._answer(source, target, ipaddress.ip_address(address), probe)
            said.append((answer.reaches and address in known, answer.cause.text))
    wrong = _differences(asked, said, packets.ask(lab, asked))
    if wrong:  # a busy machine loses a packet now and then
        wrong = _differences(asked, said, packets.ask(lab, asked))
    if wrong:
        pytest.fail("\n".join([*wrong, repr(lab)]))


def _differences(
    asked: list[tuple[str, str, str, str, Traffic]], said: list[tuple[bool, str]], real: list[bool]
) -> list[str]:
    return [
        f"{source} to {address} ({target}), {probe}: the oracle says {mine}: {why}"
        for (source, address, target, _, probe), (mine, why), theirs in zip(asked, said, real, strict=True)
        if mine is not theirs
    ]
