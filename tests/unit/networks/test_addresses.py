"""MAC and IPv4 addresses."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmcompose.networks._addresses import DYNAMIC, Addresses, AddressRequest, assign

NETWORKS = st.sampled_from(["br0", "br1", "br2", "a-longer-name"])
GUESTS = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def wish(
    guest: str, network: str = "br0", index: int = 0, mac: str | None = None, ip: str | None = None
) -> AddressRequest:
    return AddressRequest(guest, index, network, mac, ip, ("machines", 0, "interfaces", index))


@st.composite
def requests(draw: st.DrawFn) -> list[AddressRequest]:
    """Guests with one to three interfaces on some networks, some of them dynamic."""
    found = []
    for guest in draw(st.lists(GUESTS, unique=True, max_size=25)):
        for index, network in enumerate(draw(st.lists(NETWORKS, min_size=1, max_size=3))):
            found.append(wish(guest, network, index, ip=draw(st.sampled_from([None, None, None, DYNAMIC]))))
    return found


def numbers(addresses: Addresses) -> dict[tuple[str, int], ipaddress.IPv4Address]:
    return {key: ipaddress.IPv4Address(ip) for key, ip in addresses.ips.items() if ip != DYNAMIC}


@given(requests(), st.sampled_from(["", "br0", "br2"]))
def test_every_address_is_given_once_and_lies_in_its_subnet(
    found: list[AddressRequest], external: str
) -> None:
    addresses, complaints = assign("lab", found, external)
    assert complaints == ()
    assert addresses.macs.keys() == addresses.ips.keys() == {(each.guest, each.index) for each in found}
    assert len(set(addresses.macs.values())) == len(found)
    given_out = numbers(addresses)
    assert len(set(given_out.values())) == len(given_out)
    for each in found:
        subnet = addresses.subnets[each.network]
        if (each.guest, each.index) in given_out:
            address = given_out[each.guest, each.index]
            assert address in subnet.network
            assert address not in (subnet.network.network_address, subnet.network.broadcast_address)
            assert str(address) != str(subnet.network[1])


@given(requests(), st.sampled_from(["", "br0"]))
def test_subnets_are_private_and_apart(found: list[AddressRequest], external: str) -> None:
    addresses, _ = assign("lab", found, external)
    networks = [subnet.network for subnet in addresses.subnets.values()]
    assert all(network.is_private for network in networks)
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])
    assert [name for name, subnet in addresses.subnets.items() if subnet.gateway is not None] == [external]


@given(requests(), st.lists(GUESTS, unique=True, max_size=5))
def test_new_guests_at_the_end_move_nobody(found: list[AddressRequest], more: list[str]) -> None:
    before, _ = assign("lab", found, "br0")
    known = {each.guest for each in found}
    new = [wish(guest, "br0") for guest in more if guest not in known]
    after, _ = assign("lab", [*found, *new], "br0")
    for key, ip in before.ips.items():
        assert after.ips[key] == ip
        assert after.macs[key] == before.macs[key]
    for name, subnet in before.subnets.items():
        assert after.subnets[name] == subnet


@given(requests())
def test_addresses_do_not_depend_on_hash_or_time(found: list[AddressRequest]) -> None:
    assert assign("lab", found, "br0") == assign("lab", list(found), "br0")


@given(
    requests(),
    st.lists(st.integers(2, 254), unique=True, min_size=1, max_size=10),
)
def test_what_the_user_gave_is_respected(found: list[AddressRequest], last_bytes: list[int]) -> None:
    fixed = [
        wish(f"fixed-{number}", "br0", mac=f"02:00:00:00:00:{number:02x}", ip=f"192.168.77.{number}")
        for number in last_bytes
    ]
    addresses, complaints = assign("lab", [*found, *fixed], "br1")
    assert complaints == ()
    for each in fixed:
        assert addresses.ips[each.guest, 0] == each.ip
        assert addresses.macs[each.guest, 0] == each.mac
    given_out = numbers(addresses)
    assert len(set(given_out.values())) == len(given_out)
    subnet = addresses.subnets["br0"].network
    assert all(
        given_out[each.guest, each.index] in subnet for each in found if each.network == "br0" and not each.ip
    )


def test_dynamic_stays_dynamic() -> None:
    addresses, _ = assign("lab", [wish("a", ip=DYNAMIC)], "br0")
    assert addresses.ips == {("a", 0): DYNAMIC}


def test_derived_addresses_avoid_those_of_the_user_whatever_the_order() -> None:
    alone, _ = assign("lab", [wish("derived")], "")
    mac = alone.macs["derived", 0]
    for order in (1, -1):
        both = [wish("derived"), wish("fixed", mac=mac)][::order]
        addresses, _ = assign("lab", both, "")
        assert addresses.macs["fixed", 0] == mac
        assert addresses.macs["derived", 0] != mac


def test_derived_macs_are_of_qemu_s_vendor_and_differ_between_projects() -> None:
    one, two = (assign(project, [wish("a")], "")[0].macs["a", 0] for project in ("one", "two"))
    assert one != two
    for mac in (one, two):
        assert MAC.fullmatch(mac)
        assert mac.startswith("52:54:00:")


@pytest.mark.parametrize(("count", "prefix"), [(1, 20), (256, 20), (257, 16), (4096, 16), (4097, 12)])
def test_a_subnet_is_wide_enough(count: int, prefix: int) -> None:
    addresses, complaints = assign("lab", [wish(f"g{number}") for number in range(count)], "br0")
    assert complaints == ()
    assert addresses.subnets["br0"].network.prefixlen == prefix
    assert len(set(addresses.ips.values())) == count


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([200, 253, 254, 255, 256, 257, 300, 4097]), st.integers(2, 254))
def test_one_given_address_among_many_derived_ones_leaves_room_for_all(count: int, last: int) -> None:
    found = [wish(f"g{number}") for number in range(count - 1)]
    addresses, complaints = assign("lab", [wish("fixed", ip=f"192.168.5.{last}"), *found], "br0")
    refused = [complaint.code for complaint in complaints]
    assert refused in ([], ["reserved-address"])
    given_out = numbers(addresses)
    assert len(set(given_out.values())) == count
    assert all(address in addresses.subnets["br0"].network for address in given_out.values())


@pytest.mark.parametrize(
    ("first", "second", "network"),
    [
        ("10.0.0.5", "10.0.0.9", "10.0.0.0/24"),
        ("10.0.0.5", "10.0.1.9", "10.0.0.0/23"),
        ("10.0.0.5", "10.9.0.9", "10.0.0.0/12"),
        ("192.168.0.5", "192.168.255.9", "192.168.0.0/16"),
    ],
)
def test_given_addresses_lie_in_the_smallest_subnet_that_holds_them(
    first: str, second: str, network: str
) -> None:
    addresses, complaints = assign("lab", [wish("a", ip=first), wish("b", ip=second)], "br0")
    assert complaints == ()
    assert str(addresses.subnets["br0"].network) == network


def test_addresses_too_far_apart_are_a_complaint_and_no_crash() -> None:
    _, complaints = assign("lab", [wish("a", ip="10.0.0.5"), wish("b", ip="192.168.0.5"), wish("c")], "br0")
    (complaint,) = complaints
    assert complaint.code == "addresses-too-far-apart"
    assert "'a'" in complaint.message or "(a)" in complaint.message


@pytest.mark.parametrize(
    ("ip", "external", "reserved"),
    [
        ("10.7.0.0", "br0", True),
        ("10.7.0.255", "br0", True),
        ("10.7.0.1", "br0", True),
        ("10.7.0.1", "", False),
        ("10.7.0.2", "br0", False),
    ],
)
def test_addresses_that_mean_something_else_are_refused(ip: str, external: str, reserved: bool) -> None:
    _, complaints = assign("lab", [wish("a", ip=ip), wish("b", ip="10.7.0.77")], external)
    assert [complaint.code for complaint in complaints] == (["reserved-address"] if reserved else [])


def test_derived_subnets_keep_clear_of_those_the_user_chose() -> None:
    given_ones = [wish(f"u{number}", f"u{number}", ip=f"10.{number}.3.4") for number in range(0, 256, 8)]
    derived = [wish(f"d{number}", f"d{number}") for number in range(60)]
    addresses, _ = assign("lab", [*derived, *given_ones], "")
    networks = [subnet.network for subnet in addresses.subnets.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])
