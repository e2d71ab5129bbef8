"""The ``subnet`` of a bridge."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import SCHEMAS, compile_text
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import encode_state
from kvmcompose.networks._addresses import AddressRequest, WrittenSubnet, assign, could_be_derived
from kvmcompose.pipeline.stored import read_state

LAB = """\
machines:
  - name: web
    interfaces: [{{bridge: br0{web}}}]
    libvirt: {{cpus: 1, memory_mb: 64, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
  - name: db
    interfaces: [{{bridge: br1}}]
    libvirt: {{cpus: 1, memory_mb: 64, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
network:
  bridges: [{{name: br0{br0}}}, {{name: br1{br1}}}, {{name: other{other}}}]
  bridge_connections: {{br0: br1}}
  external_bridge: br0
"""


def text(web: str = "", br0: str = "", br1: str = "", other: str = "") -> str:
    return LAB.format(web=web, br0=br0, br1=br1, other=other)


@pytest.mark.parametrize("at", ["br0", "br1"])
def test_the_subnet_of_a_bridge_is_that_of_all_connected_ones(at: str) -> None:
    state = compile_text(text(**{at: ", subnet: 172.20.8.0/21"})).state
    assert state.network.libvirt_network_subnet == "172.20.8.0/21"
    assert state.network.libvirt_network_gateway == "172.20.8.1"
    for guest in state.testbed_guests.values():
        (nic,) = guest.interfaces
        assert ipaddress.IPv4Address(nic.ip) in ipaddress.IPv4Network("172.20.8.0/21")
        assert (nic.prefix_length, nic.gateway) == (21, "172.20.8.1")


def test_a_state_with_a_written_subnet_is_read_back() -> None:
    data = encode_state(compile_text(text(br0=", subnet: 172.20.8.0/21")).state)
    assert encode_state(read_state(data, SCHEMAS)) == data


def test_the_derived_subnet_written_changes_nothing() -> None:
    derived = compile_text(text()).state
    subnet = derived.network.libvirt_network_subnet
    assert encode_state(compile_text(text(br1=f", subnet: {subnet}")).state) == encode_state(derived)


@pytest.mark.parametrize(
    ("edits", "code", "path"),
    [
        ({"br0": ", subnet: 10.0.0.0"}, "bad-address", "network.bridges[0].subnet"),
        ({"br0": ", subnet: 10.0.0.1/24"}, "bad-address", "network.bridges[0].subnet"),
        ({"br0": ", subnet: 10.0.0.0/8"}, "bad-address", "network.bridges[0].subnet"),
        ({"br0": ", subnet: 'fd00::/64'"}, "bad-address", "network.bridges[0].subnet"),
        ({"br0": ", subnet: 127.0.0.0/24"}, "bad-address", "network.bridges[0].subnet"),
        ({"br0": ", subnet: 0.0.0.0/9"}, "bad-address", "network.bridges[0].subnet"),
        ({"br0": ", subnet: 224.0.0.0/24"}, "bad-address", "network.bridges[0].subnet"),
        (
            {"br0": ", subnet: 10.0.0.0/24", "br1": ", subnet: 10.0.1.0/24"},
            "two-subnets",
            "network.bridges[1].subnet",
        ),
        ({"br1": ", subnet: 10.0.0.0/30"}, "subnet-too-small", "network.bridges[1].subnet"),
        (
            {"web": ", ip: 10.0.1.5", "br1": ", subnet: 10.0.0.0/24"},
            "address-outside-subnet",
            "machines[0].interfaces[0].ip",
        ),
        (
            {"web": ", ip: 10.0.0.255", "br1": ", subnet: 10.0.0.0/24"},
            "reserved-address",
            "machines[0].interfaces[0].ip",
        ),
    ],
)
def test_a_subnet_that_cannot_be_used_is_refused(edits: dict[str, str], code: str, path: str) -> None:
    with pytest.raises(InputError) as caught:
        compile_text(text(**edits))
    assert [(each.code, each.path) for each in caught.value.problems] == [(code, path)]


CLONES = """\
machines:
  - name: web
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {{cloud_image: {{name: debian_12}}}}
      scaling:
        count: 3
        interfaces: [{entries}]
network: {{bridges: [{{name: br0, subnet: 10.0.0.0/24}}], external_bridge: br0}}
"""


def test_a_clone_can_have_addresses_of_its_own() -> None:
    entries = "{bridge: br0, clones: [1], ip: 10.0.0.7, mac: '52:54:00:00:00:07'}, {bridge: br0, clones: [0]}"
    state = compile_text(CLONES.format(entries=entries + ", {bridge: br0, clones: [2], ip: dynamic}")).state
    nics = {name: guest.interfaces[0] for name, guest in state.testbed_guests.items()}
    assert (nics["web-1"].ip, nics["web-1"].mac) == ("10.0.0.7", "52:54:00:00:00:07")
    assert nics["web-2"].ip == "dynamic"


@pytest.mark.parametrize(
    ("entry", "code", "key"),
    [
        ("{bridge: br0, clones: [0, 1], ip: 10.0.0.7}", "shared-address", "ip"),
        ("{bridge: br0, clones: [0, 1], mac: '52:54:00:00:00:07'}", "shared-address", "mac"),
        ("{bridge: br0, clones: [0], ip: 10.1.0.7}", "address-outside-subnet", "ip"),
        ("{bridge: br0, clones: [0], ip: 10.0.0.1}", "reserved-address", "ip"),
        ("{bridge: br0, clones: [0], ip: nowhere}", "bad-address", "ip"),
        ("{bridge: br0, clones: [0], mac: '01:00:00:00:00:07'}", "bad-mac", "mac"),
    ],
)
def test_an_address_that_a_clone_cannot_have_is_refused(entry: str, code: str, key: str) -> None:
    rest = [2] if "0, 1" in entry else [1, 2]
    with pytest.raises(InputError) as caught:
        compile_text(CLONES.format(entries=f"{{bridge: br0, clones: {rest}}}, {entry}"))
    path = f"machines[0].libvirt.scaling.interfaces[1].{key}"
    assert [(each.code, each.path) for each in caught.value.problems] == [(code, path)]


def test_many_clones_may_be_dynamic() -> None:
    state = compile_text(CLONES.format(entries="{bridge: br0, clones: [0, 1, 2], ip: dynamic}")).state
    assert {state.testbed_guests[f"web-{number}"].interfaces[0].ip for number in range(3)} == {"dynamic"}


def test_both_bridges_may_name_the_same_subnet() -> None:
    compile_text(text(br0=", subnet: 10.0.0.0/24", br1=", subnet: 10.0.0.0/24"))


def test_no_other_network_derives_a_written_subnet() -> None:
    derived = compile_text(text()).state.network.libvirt_network_subnet
    taken = compile_text(text(other=f", subnet: {derived}")).state.network.libvirt_network_subnet
    assert not ipaddress.IPv4Network(taken).overlaps(ipaddress.IPv4Network(derived))


GUESTS = st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True), unique=True, max_size=13)


@settings(deadline=None)
@given(GUESTS, st.integers(20, 28))
def test_a_written_subnet_has_room_for_as_many_as_it_says(guests: list[str], prefix: int) -> None:
    network = ipaddress.IPv4Network(("172.16.0.0", prefix))
    requests = [AddressRequest(each, 0, "lan", None, None, ()) for each in guests]
    addresses, complaints = assign("lab", requests, "lan", {"lan": WrittenSubnet(network, ())})
    assert complaints == ()
    found = {ipaddress.IPv4Address(each) for each in addresses.ips.values()}
    assert len(found) == len(guests)
    assert found <= {*network.hosts()} - {network[1]}
    assert all(could_be_derived("lab", guest, 0, ip, network) for (guest, _), ip in addresses.ips.items())
    assert not could_be_derived("lab", "web", 0, "dynamic", network)
