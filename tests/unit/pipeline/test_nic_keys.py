"""Keys of interfaces: what is refused, at which line, and what of them is in the state."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import compile_text, host
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.core.expectation import PING
from kvmcompose.core.nic import Trunk
from kvmcompose.core.state import Interface, encode_state
from kvmcompose.networks.bridges import connectivity

MACHINE = """\
  - name: {name}
    {key}: {nics}
    libvirt: {{cpus: 2, memory_mb: 64, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
"""
BRIDGES = "network: {bridges: [{name: br0}, {name: br1}], external_bridge: br0}\n"
OVN = "network: {ovn: {switches: {sw0: {subnet: 10.0.0.0/24}}}}\n"


def on_bridges(**nics: str) -> str:
    machines = (MACHINE.format(name=name, key="interfaces", nics=each) for name, each in nics.items())
    return f"machines:\n{''.join(machines)}{BRIDGES}"


def on_switches(nics: str) -> str:
    return f"machines:\n{MACHINE.format(name='a', key='network', nics=nics)}{OVN}"


def problems(text: str, datapath: str = "system") -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        compile_text(text, on=(host(datapath_type=datapath),))
    return caught.value.problems


@pytest.mark.parametrize(
    ("nic", "path", "words"),
    [
        ("mtu: 1443", "machines[0].interfaces[0].mtu", "larger than the MTU of the testbed"),
        ("mtu: 500", "machines[0].interfaces[0].mtu", "576"),
        ("queues: 3", "machines[0].interfaces[0].queues", "more queues than CPUs"),
        ("queues: 2, model: e1000", "machines[0].interfaces[0].queues", "the model e1000 has one queue"),
        ("model: ne2000", "machines[0].interfaces[0].model", "ne2000"),
        ("link: off", "machines[0].interfaces[0].link", "up"),
        ("vlan: 4095", "machines[0].interfaces[0].vlan", "4094"),
        ("vlan: {trunk: []}", "machines[0].interfaces[0].vlan.trunk", "VLAN"),
        (
            "vlan: {trunk: [1, 2], native: 2}",
            "machines[0].interfaces[0].vlan.trunk[1]",
            "frames of the native VLAN 2 have no tag",
        ),
        (
            "bandwidth: {outbound: {average: 1, peak: 2}}",
            "machines[0].interfaces[0].bandwidth.outbound.peak",
            "libvirt ignores it",
        ),
        (
            "bandwidth: {inbound: {average: 0}}",
            "machines[0].interfaces[0].bandwidth.inbound.average",
            "KiB/s",
        ),
        (
            "bandwidth: {inbound: {average: 2, peak: 1}}",
            "machines[0].interfaces[0].bandwidth.inbound.peak",
            "at least 2",
        ),
        ("port_security: true", "machines[0].interfaces[0].port_security", "only OVN"),
    ],
)
def test_what_is_wrong_is_said_at_its_line(nic: str, path: str, words: str) -> None:
    (found,) = problems(on_bridges(a=f"[{{bridge: br0, {nic}}}]"))
    assert found.path == path
    assert words in f"{found.message} {found.wanted} {found.hint} {found.found}"


def test_what_a_guest_sends_has_no_limit_where_bridges_are_in_userspace() -> None:
    text = on_bridges(a="[{bridge: br0, bandwidth: {outbound: {average: 1}}}]")
    compile_text(text)
    (found,) = problems(text, "netdev")
    assert "bridges in userspace" in found.message


@pytest.mark.parametrize("key", ["model: e1000", "queues: 2", "bandwidth: {inbound: {average: 1}}"])
def test_a_container_has_no_network_card(key: str) -> None:
    text = f"machines: [{{name: a, interfaces: [{{bridge: br0, {key}}}], docker: {{image: b}}}}]\n{BRIDGES}"
    (found,) = problems(text)
    assert found.path == f"machines[0].interfaces[0].{key.partition(':')[0]}"
    assert "interfaces of containers have no" in found.message


def test_a_switch_has_no_vlans() -> None:
    (found,) = problems(on_switches("{switch: sw0, vlan: 10}"))
    assert "another switch" in (found.hint or "")
    (found,) = problems(on_switches("{switch: sw0, mtu: 9000}"))
    assert found.path == "machines[0].network.mtu"


def nics(text: str) -> tuple[Interface, ...]:
    return compile_text(text).state.testbed_guests["a"].interfaces


def test_defaults_that_are_written_down_change_nothing() -> None:
    written = "[{bridge: br0, model: virtio, queues: 1, link: up}]"
    without = "[{bridge: br0}]"
    states = [encode_state(compile_text(on_bridges(a=each)).state) for each in (written, without)]
    assert states[0] == states[1]


def test_a_tagged_interface_has_no_gateway() -> None:
    tagged, plain = nics(on_bridges(a="[{bridge: br0, vlan: {trunk: [2]}}, {bridge: br0}]"))
    assert (tagged.gateway, tagged.vlan) == (None, Trunk((2,)))
    assert plain.gateway is not None


A, B = "[{bridge: br1%s}]", "[{bridge: br1%s}]"


@pytest.mark.parametrize(
    ("one", "other", "reaches", "words"),
    [
        ("", "", True, "both are on br1"),
        (", vlan: 2", ", vlan: 2", True, "both are on br1"),
        (", vlan: 2", ", vlan: {trunk: [3], native: 2}", True, "both are on br1"),
        (", vlan: 2", ", vlan: 3", False, "a is in VLAN 2 and b is in VLAN 3"),
        ("", ", vlan: 3", False, "a is in none and b is in VLAN 3"),
        (", vlan: 3", ", vlan: {trunk: [3]}", False, "b is on a trunk of br1 without 'native'"),
        ("", ", link: down", False, "the link of b on br1 is down"),
        (", link: down", "", False, "the link of a on br1 is down"),
    ],
)
def test_vlans_and_links_count_in_what_reaches_what(one: str, other: str, reaches: bool, words: str) -> None:
    logical = compile_text(on_bridges(a=A % one, b=B % other)).placed.logical
    for source, target in (("a", "b"), ("b", "a")):
        answer = connectivity(logical).answer(source, target, PING)
        assert answer.reaches == reaches
        assert all(word in answer.cause.text for word in words.split(" and ")), answer
        if not reaches:
            assert answer.cause.path[-1] in ("vlan", "link")


@pytest.mark.parametrize(
    ("given", "reaches", "words"),
    [
        ("{bridge: br0, vlan: 2}", False, "a is in VLAN 2, and the NAT of the main host is in none"),
        ("{bridge: br0, vlan: 2}, {bridge: br0}", True, "the main host translates it (NAT)"),
        ("{bridge: br0, link: down}", False, "the link of a on br0 is down"),
    ],
)
def test_the_nat_of_the_main_host_is_in_no_vlan(given: str, reaches: bool, words: str) -> None:
    answer = connectivity(compile_text(on_bridges(a=f"[{given}]")).placed.logical).answer(
        "a", "internet", PING
    )
    assert (answer.reaches, answer.cause.text) == (reaches, words)


def test_management_ports_are_for_interfaces_in_no_vlan() -> None:
    text = on_bridges(
        a="[{bridge: br1, vlan: 2}]",
        b="[{bridge: br1, vlan: 2}, {bridge: br1}]",
        c="[{bridge: br0, link: down}, {bridge: br1}]",
    )
    compiled = compile_text(f"testbed_options: {{management: true}}\n{text}")
    (port,) = compiled.state.network.management_ports
    assert port.guests == ("b", "c")
    (warning,) = compiled.warnings
    assert "'a' cannot be reached: its interfaces are in VLANs" in warning.message
