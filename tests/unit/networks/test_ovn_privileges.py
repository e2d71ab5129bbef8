"""What a network of OVN reaches on hosts needs the user's consent."""

from __future__ import annotations

import msgspec
import pytest
from ovn_labs import AnyFiles, compiled, lab, machine

from golden.memory import compile_text, host
from kvmcompose.core.chassis import ChassisConfig, Remotes
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.model import Host
from kvmcompose.core.privilege import PrivilegeKind
from kvmcompose.core.state import State
from kvmcompose.networks import dialect
from kvmcompose.privileges import Xml, of_domain

WEB = machine("web", 1)


def state_of(text: str, *hosts: Host) -> State:
    return compile_text(text, files=AnyFiles(), on=hosts or (host("h0"),)).state


def listed(state: State) -> list[tuple[PrivilegeKind, str]]:
    return [(each.kind, each.what) for each in dialect("ovn").privileges(state, for_member=False)]


def test_the_usual_way_out_is_as_that_of_bridges() -> None:
    assert listed(state_of(lab(WEB))) == []


@pytest.mark.parametrize(
    "mapping", [("public", "br-campus", "172.16.1.1/24"), ("public", "br-ex", "192.0.2.1/24")]
)
def test_another_bridge_or_address_is_listed(mapping: tuple[str, str, str]) -> None:
    mapped = msgspec.structs.replace(host("h0"), ovn=ChassisConfig(bridge_mappings=(mapping,)))
    assert listed(state_of(lab(WEB), mapped)) == [
        (PrivilegeKind.PROVIDER, f"public: bridge {mapping[1]} of the host h0, {mapping[2]}")
    ]


def test_another_integration_bridge_is_listed() -> None:
    other = msgspec.structs.replace(host("h0"), ovn=ChassisConfig(bridge="br0"))
    assert listed(state_of(lab(WEB), other)) == [(PrivilegeKind.INTEGRATION, "br0 of the host h0")]


def test_an_interface_of_a_host_is_listed() -> None:
    switches = (
        "sw0: {subnet: 10.0.0.0/24, ports: [{name: own, chassis: h0, "
        'internal: {ip: 10.0.0.250, mac: "52:54:00:00:00:01"}}]}'
    )
    assert listed(state_of(lab(WEB, switches=switches))) == [
        (PrivilegeKind.HOST_PORT, "10.0.0.250/24 of the host h0")
    ]


def test_databases_and_their_keys_are_listed() -> None:
    state = state_of(lab(WEB))
    remotes = Remotes(
        ovn_northbound=("ssl:192.0.2.8:6641",),
        ovn_southbound=("ssl:192.0.2.8:6642",),
        ovn_private_key="~/key",
    )
    network = msgspec.structs.replace(state.network, remotes=remotes)
    kinds = [kind for kind, _ in listed(msgspec.structs.replace(state, network=network))]
    assert kinds[:2] == [PrivilegeKind.DATABASE] * 2


NIC = """\
<domain type="qemu"><name>lab-web</name><devices><interface type="bridge"><source bridge="{bridge}"/>
<virtualport type="openvswitch"><parameters interfaceid="{port}"/></virtualport></interface></devices>
</domain>
"""


@pytest.mark.parametrize(
    ("own_bridge", "own_port", "count"), [(True, True, 0), (True, False, 1), (False, True, 1)]
)
def test_an_interface_may_only_be_the_guest_s_own_logical_port(
    own_bridge: bool, own_port: bool, count: int
) -> None:
    state = compiled(lab(WEB)).state
    guest = state.testbed_guests["web"]
    [nic] = guest.interfaces
    other = "11111111-2222-4333-8444-555555555555"  # that of another project
    xml = NIC.format(
        bridge=nic.source if own_bridge else "br-lan", port=nic.interface_id if own_port else other
    )
    run = DomainGuest(domain_xml="artefacts/web-domain.xml", files=(), cloud_init=False, username=None)
    found = list(of_domain(Xml(xml), guest, run, state, dialect("ovn").network_plan(state)))
    assert len(found) == count
    for each in found:
        assert (other if own_bridge else "br-lan") in each.what
