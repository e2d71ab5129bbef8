"""Assign MAC and IPv4 addresses: the user's where given, otherwise derived from names; all unique.

Derived addresses depend only on the names of project and guest, so that a new guest does not change those of
others (unless two names give the same address: then the first in file order has it). All guests of a
connected network share one subnet, so that they reach each other without a router.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.core.names import stable_number

DYNAMIC = "dynamic"

#: QEMU's prefix, which packet analysers know.
_MAC_PREFIX = 0x525400 << 24
#: Locally administered (IEEE 802, section 8.2), and no guest's: a packet capture shows what is not of guests.
_MANAGEMENT_PREFIX = 0x026B76 << 24
#: The prefix lengths of subnets, and the highest number of interfaces in each: a sixteenth of its addresses,
#: so that few names give the same address, and growth seldom changes all addresses.
_SIZES = ((20, 256), (16, 4096), (12, 65536), (9, 524288))
#: The prefix length of the largest subnet.
LARGEST = 9
#: So many attempts at the most find room for the subnet of nearly every project.
_LIKELY_ATTEMPTS = 16
#: The prefix length of the smallest subnet; a smaller one has no room for a guest besides the gateway.
SMALLEST = 30
#: How many addresses guests cannot have: that of the subnet, of the gateway, and the broadcast address.
_KEPT = 3


class AddressRequest(msgspec.Struct, frozen=True):
    """An interface that needs addresses. ``network`` is the connected network that it is on.

    Derived addresses come from ``identity``; None is for the guest's name.
    """

    guest: str
    index: int
    network: str
    mac: str | None
    ip: str | None
    path: tuple[str | int, ...]
    identity: str | None = None


class WrittenSubnet(msgspec.Struct, frozen=True):
    """A subnet that the YAML gives to a connected network, and where it does."""

    network: ipaddress.IPv4Network
    path: tuple[str | int, ...]


class Subnet(msgspec.Struct, frozen=True):
    """The subnet of a connected network. ``gateway`` is its first address, None without a gateway."""

    network: ipaddress.IPv4Network
    prefix_length: int
    gateway: str | None


class Addresses(msgspec.Struct, frozen=True):
    """The assigned addresses, by guest and interface number, and the subnet of each network."""

    macs: dict[tuple[str, int], str]
    ips: dict[tuple[str, int], str]
    subnets: dict[str, Subnet]


def assign(
    project: str,
    requests: Sequence[AddressRequest],
    external: str,
    written: Mapping[str, WrittenSubnet] = MappingProxyType({}),
) -> tuple[Addresses, tuple[Complaint, ...]]:
    """Assign addresses to all requests. ``external`` is the network that has a gateway.

    ``written`` are the networks whose subnet the YAML gives.
    """
    complaints: list[Complaint] = []
    by_network: dict[str, list[AddressRequest]] = {external: []}
    for request in requests:
        by_network.setdefault(request.network, []).append(request)
    for name in written:  # those without guests, too, so that no other network derives the same subnet
        by_network.setdefault(name, [])
    subnets = _subnets(project, by_network, external, written, complaints)
    ips: dict[tuple[str, int], str] = {}
    for name, members in by_network.items():
        ips.update(_ips(project, members, subnets[name], complaints))
    return Addresses(_macs(project, requests), ips, subnets), tuple(complaints)


def check_mac(mac: str, path: tuple[str | int, ...], taken_by: str | None) -> Iterator[Complaint]:
    """Yield the problem of a MAC address as written; ``taken_by`` is what has it already, if anything."""
    if taken_by is not None:
        yield Complaint(
            code="duplicate-mac", path=path, message=f"{taken_by} has the MAC address {mac} already"
        )
    elif int(mac[:2], 16) & 1 or set(mac) <= {"0", ":"}:
        yield Complaint(
            code="bad-mac",
            path=path,
            message=f"{mac} is not a valid address of an interface (it is multicast or zero)",
            hint="use an even first byte, for example 52:54:00:…",
        )


def _macs(project: str, requests: Sequence[AddressRequest]) -> dict[tuple[str, int], str]:
    given = {request.mac for request in requests if request.mac is not None}
    macs: dict[tuple[str, int], str] = {}
    for request in requests:
        mac = request.mac
        attempt = 0
        while mac is None:
            derived = derived_mac(project, request.identity or request.guest, request.index, attempt)
            if derived not in given:
                given.add(derived)
                mac = derived
            attempt += 1
        macs[request.guest, request.index] = mac
    return macs


def _subnets(
    project: str,
    networks: Mapping[str, Sequence[AddressRequest]],
    external: str,
    written: Mapping[str, WrittenSubnet],
    complaints: list[Complaint],
) -> dict[str, Subnet]:
    chosen: dict[str, ipaddress.IPv4Network] = {}
    for name, members in networks.items():
        given = [request for request in members if request.ip not in (None, DYNAMIC)]
        if name in written:
            misfits = list(_misfits(given, len(members), written[name]))
            complaints += misfits
            chosen[name] = ipaddress.IPv4Network("10.0.0.0/9") if misfits else written[name].network
        elif given:
            network = _enclosing(given, len(members))
            if network.prefixlen < LARGEST:
                complaints.append(_too_far_apart(given, network))
                network = ipaddress.IPv4Network("10.0.0.0/9")
            chosen[name] = network
    unplaced = 0
    taken = [_span(network) for network in chosen.values()]
    for name, members in networks.items():
        if name not in chosen:
            # when there is no room for one, a search for the others would only take long
            size = _prefix_length(len(members))
            found = None if unplaced else _derived(project, name, size, taken)
            unplaced += found is None
            chosen[name] = found or ipaddress.IPv4Network("10.0.0.0/9")
            taken.append(_span(chosen[name]))
    if unplaced:
        complaints.append(
            Complaint(
                code="too-many",
                path=("network", "bridges"),
                message=f"there is no room in 10.0.0.0/8 for the subnets of {unplaced} unconnected networks",
                hint="connect bridges: guests of connected bridges share one subnet",
            )
        )
    return {
        name: Subnet(network, network.prefixlen, str(network[1]) if name == external else None)
        for name, network in chosen.items()
    }


def _misfits(given: Sequence[AddressRequest], interfaces: int, subnet: WrittenSubnet) -> Iterator[Complaint]:
    """Yield addresses of the user outside the subnet that the user gives, or that it is too small."""
    network = subnet.network
    for request in given:
        if ipaddress.IPv4Address(str(request.ip)) not in network:
            yield Complaint(
                code="address-outside-subnet",
                path=(*request.path, "ip"),
                message=f"{request.ip} is outside {network}, the subnet of its connected network",
                hint="guests of connected bridges share one subnet: change the address or the subnet",
            )
    if interfaces > network.num_addresses - _KEPT:
        yield Complaint(
            code="subnet-too-small",
            path=subnet.path,
            message=f"{network} has no room for the {interfaces} interfaces of its connected network",
            wanted=f"a subnet of /{32 - (interfaces + _KEPT - 1).bit_length()} or larger",
        )


def _prefix_length(interfaces: int) -> int:
    return next((prefix for prefix, most in _SIZES if interfaces <= most), LARGEST)


def _enclosing(given: Sequence[AddressRequest], interfaces: int) -> ipaddress.IPv4Network:
    """Return the smallest network (of at least 256 addresses) that contains every given address and has
    room for all interfaces.
    """
    numbers = [int(ipaddress.IPv4Address(str(request.ip))) for request in given]
    differing = (min(numbers) ^ max(numbers)).bit_length()
    roomy = 24 if interfaces <= 2**8 - _KEPT else _prefix_length(interfaces)
    prefix = min(32 - differing, roomy)
    return ipaddress.IPv4Network((min(numbers), prefix), strict=False)


def _too_far_apart(given: Sequence[AddressRequest], network: ipaddress.IPv4Network) -> Complaint:
    first, last = (pick(given, key=lambda each: ipaddress.IPv4Address(str(each.ip))) for pick in (min, max))
    return Complaint(
        code="addresses-too-far-apart",
        path=(*last.path, "ip"),
        message=f"{last.ip} and {first.ip} ({first.guest}) are on one connected network, "
        f"but no permitted subnet contains both (it would be a /{network.prefixlen})",
        hint="guests of connected bridges share one subnet: use addresses of one subnet",
    )


def _span(network: ipaddress.IPv4Network) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


def _derived(
    project: str, name: str, prefix: int, taken: Sequence[tuple[int, int]]
) -> ipaddress.IPv4Network | None:
    """Return a subnet of 10.0.0.0/8 (RFC 1918) that overlaps no other of this project, or None."""
    size = 2 ** (32 - prefix)
    for attempt in range(1000):
        first = _candidate(project, name, prefix, attempt)
        # numbers are fast: there may be thousands of networks, and each is compared with all before it
        if all(first + size <= low or high < first for low, high in taken):
            return ipaddress.IPv4Network((first, prefix))
    return None


def _candidate(project: str, name: str, prefix: int, attempt: int) -> int:
    """The first address of the subnet that is tried at this attempt."""
    number = stable_number("subnet", project, name, attempt) % (1 << (prefix - 8))
    return (10 << 24) + (number << (32 - prefix))


def is_derived_subnet(project: str, name: str, network: ipaddress.IPv4Network) -> bool:
    """Return whether a connected network's subnet is derived from names, not from a guest's ``ip``.

    ``name`` is that of the network. A derived subnet that overlapped dozens of others before counts as not
    derived.
    """
    prefix = network.prefixlen
    return any(size == prefix for size, _ in _SIZES) and any(
        _candidate(project, name, prefix, attempt) == int(network.network_address)
        for attempt in range(_LIKELY_ATTEMPTS)
    )


def _ips(
    project: str, members: Sequence[AddressRequest], subnet: Subnet, complaints: list[Complaint]
) -> dict[tuple[str, int], str]:
    network = subnet.network
    ips = {(request.guest, request.index): str(request.ip) for request in members if request.ip is not None}
    taken = {int(ipaddress.IPv4Address(ip)) for ip in ips.values() if ip != DYNAMIC}
    complaints.extend(_reserved(members, subnet))
    first = int(network.network_address)
    room = network.num_addresses - _KEPT
    for request in members:
        if request.ip is not None:
            continue
        offset = stable_number("ip", project, request.identity or request.guest, request.index) % room
        while (number := first + 2 + offset) in taken:
            offset = (offset + 1) % room
        taken.add(number)
        ips[request.guest, request.index] = ".".join(map(str, number.to_bytes(4, "big")))
    return ips


def free_address(project: str, bridge: str, subnet: ipaddress.IPv4Network, taken: set[int]) -> int | None:
    """Return the address of a bridge's management port: derived from names, and not taken. None: all are."""
    room = subnet.num_addresses - _KEPT
    first = int(subnet.network_address) + 2
    start = stable_number("management", project, bridge) % room
    offsets = itertools.chain(range(start, room), range(start))
    return next((first + offset for offset in offsets if first + offset not in taken), None)


def management_mac(project: str, bridge: str, taken: Collection[str]) -> str:
    """Return the MAC address of a bridge's management port: derived from names, and not taken."""
    return _own_mac("management-mac", project, bridge, taken)


def resolver_mac(project: str, switch: str, taken: Collection[str]) -> str:
    """Return the MAC address of the port where guests ask for names, likewise."""
    return _own_mac("resolver-mac", project, switch, taken)


def _own_mac(kind: str, project: str, segment: str, taken: Collection[str]) -> str:
    for attempt in itertools.count():
        number = stable_number(kind, project, segment, attempt) % 2**24
        mac = (_MANAGEMENT_PREFIX | number).to_bytes(6, "big").hex(":")
        if mac not in taken:
            return mac
    raise AssertionError  # the attempts do not end


def could_be_derived(project: str, guest: str, index: int, ip: str, subnet: ipaddress.IPv4Network) -> bool:
    """Return whether an address in a subnet is derived from names, not written in the YAML.

    One that dozens of others displaced counts as written.
    """
    room = subnet.num_addresses - _KEPT
    if ip == DYNAMIC or room < 1:
        return False
    offset = int(ipaddress.IPv4Address(ip)) - int(subnet.network_address) - 2
    first = stable_number("ip", project, guest, index) % room
    return 0 <= offset < room and (offset - first) % room < _LIKELY_ATTEMPTS


def could_be_derived_mac(project: str, guest: str, index: int, mac: str) -> bool:
    """Return whether a MAC address is derived from names, not written in the YAML."""
    return any(derived_mac(project, guest, index, attempt) == mac for attempt in range(_LIKELY_ATTEMPTS))


def derived_mac(project: str, guest: str, index: int, attempt: int) -> str:
    """Return the MAC address that is derived from names. Another ``attempt`` gives another one."""
    number = stable_number("mac", project, guest, index, attempt) % 2**24
    return (_MAC_PREFIX | number).to_bytes(6, "big").hex(":")


def _reserved(members: Sequence[AddressRequest], subnet: Subnet) -> Iterator[Complaint]:
    """Yield addresses of the user that have a special meaning in their subnet."""
    special = {
        str(subnet.network.network_address): "the address of the subnet itself",
        str(subnet.network.broadcast_address): "the subnet's broadcast address",
    }
    if subnet.gateway is not None:
        special[subnet.gateway] = "the address of the host in its NAT network"
    for request in members:
        if request.ip in special:
            yield Complaint(
                code="reserved-address",
                path=(*request.path, "ip"),
                message=f"{request.ip} is {special[request.ip]} ({subnet.network})",
                hint="use another address of that subnet",
            )
