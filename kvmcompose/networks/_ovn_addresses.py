"""Assign addresses to guests on logical switches: those of the YAML, otherwise unique ones, from names.

A derived address depends only on the names of project and guest, and so does that which DHCP gives: OVN
answers a request with the address of the logical port. So names can be resolved, and rules checked, before
anything runs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from itertools import count

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest
from kvmcompose.core.names import stable_number
from kvmcompose.networks._addresses import derived_mac
from kvmcompose.networks._ovn_model import DYNAMIC, OvnNetwork, Path, Range, Subnet, SwitchNic, by_family

_IPV4 = 4
#: Derived IPv6 addresses are among the first 2**32 of their subnet.
_MOST = 2**32
#: The addresses of subnet and first router, and the broadcast address.
_KEPT = 3
#: So many attempts at the most find an address for nearly every guest.
_LIKELY = 16


class Assigned(msgspec.Struct, frozen=True):
    """The address of an interface in one family. With ``is_lease`` the guest gets it by DHCP."""

    address: str
    subnet: Subnet
    is_lease: bool


class SwitchAddresses:
    """The addresses of one switch, by family."""

    def __init__(self, network: OvnNetwork, switch: str) -> None:
        self.subnets = by_family(network.switches[switch].subnets)
        self._taken: set[int] = set()
        self._spans: list[tuple[int, int]] = []
        #: The families that a router with DHCP on the switch has an address of.
        self._served: set[int] = set()
        for router in network.routers.values():
            serves = any(each.switch == switch for each in router.dhcp)
            for port in router.ports:
                if port.switch == switch:
                    own = [ipaddress.ip_interface(each).ip for each in port.gateway_ip]
                    self._take(*map(str, own))
                    self._served.update(each.version for each in own if serves)
            self._take(*(nat.external_ip for nat in router.nat))
            self._take(*(route.nexthop for route in router.static_routes))
            self._spans += [
                _span(each.exclude_ips)
                for each in router.dhcp
                if each.switch == switch and each.exclude_ips is not None
            ]
        for switch_port in network.switches[switch].ports:
            if switch_port.internal is not None:
                self._take(*(each.partition("/")[0] for each in switch_port.internal.ip))

    def give(self, nic: SwitchNic) -> None:
        """Keep the addresses of an interface from others. All those of the YAML come first."""
        self._take(*(each for each in nic.ips if each != DYNAMIC), *nic.gateways)

    def keep(self, addresses: Iterable[str]) -> None:
        """Keep addresses of others from guests."""
        self._take(*addresses)

    def _take(self, *addresses: str) -> None:
        self._taken.update(int(ipaddress.ip_address(each)) for each in addresses)

    def assign(self, project: str, guest: Guest, index: int, nic: SwitchNic) -> Iterator[Assigned | None]:
        """Yield the address in each family that the interface has; None where there is no room."""
        given = {ipaddress.ip_address(each).version: each for each in nic.ips if each != DYNAMIC}
        for version, subnet in self.subnets.items():
            if given and version not in given:
                continue
            if version in given:
                yield Assigned(given[version], subnet, is_lease=False)
                continue
            address = self._derived(project, guest.identity, index, subnet)
            is_lease = DYNAMIC in nic.ips and version in self._served
            yield Assigned(address, subnet, is_lease=is_lease) if address is not None else None

    def _derived(self, project: str, identity: str, index: int, subnet: Subnet) -> str | None:
        room = min(subnet.num_addresses - _KEPT, _MOST)
        if room < 1:
            return None
        return self._free(subnet, stable_number("ip", project, identity, index) % room)

    def management_address(self, project: str, switch: str) -> str | None:
        """Return the IPv4 address of the switch's management port; None where there is no room."""
        subnet = self.subnets[_IPV4]
        room = subnet.num_addresses - _KEPT
        if room < 1:
            return None
        return self._free(subnet, stable_number("management", project, switch) % room)

    def keep_resolver(self, interfaces: int) -> Mapping[int, str]:
        """Take an address in each family where guests can ask for names; none where the guests need them all.

        It is the last one that nothing of the YAML has, so that a guest more leaves it.
        """
        found = {}
        for version, subnet in self.subnets.items():
            room = min(subnet.num_addresses - _KEPT, _MOST)
            first = int(subnet.network_address) + 2
            last = next(
                (each for each in range(first + room - 1, first, -1) if each not in self._taken), None
            )
            if last is not None and room > interfaces:
                self._taken.add(last)
                found[version] = str(subnet[last - int(subnet.network_address)])
        return found

    def is_free(self, ip: str) -> bool:
        """Return whether nothing has an IPv4 address of the switch. False for texts that are none."""
        try:
            address = ipaddress.IPv4Address(ip)
        except ValueError:
            return False
        return _IPV4 in self.subnets and address in self.subnets[_IPV4] and int(address) not in self._taken

    def _free(self, subnet: Subnet, start: int) -> str | None:
        """Take the first free address, beginning with a number among those that can be derived."""
        first, room = int(subnet.network_address) + 2, min(subnet.num_addresses - _KEPT, _MOST)
        offset = start
        while True:
            number = first + offset
            beyond = self._beyond(number)
            if beyond is None and number not in self._taken:
                self._taken.add(number)
                return str(subnet[number - int(subnet.network_address)])
            step = 1 if beyond is None else min(beyond - number, room - offset)
            passed = (offset - start) % room + step
            if passed >= room:
                return None
            offset = (start + passed) % room

    def could_be_derived(self, project: str, identity: str, index: int, ip: str) -> bool:
        """Return whether an address is derived from names, not written in the YAML.

        One that dozens of others displaced counts as written.
        """
        address = ipaddress.ip_address(ip)
        subnet = self.subnets.get(address.version)
        if subnet is None or address not in subnet:
            return False
        room = min(subnet.num_addresses - _KEPT, _MOST)
        first = int(subnet.network_address) + 2
        offset = int(address) - first
        if room < 1 or not 0 <= offset < room or self._beyond(int(address)) is not None:
            return False
        start = stable_number("ip", project, identity, index) % room
        passed = self._beyond(first + start)
        if passed is not None:  # the range that was excluded begins there
            start = passed - first
        return (offset - start) % room < _LIKELY

    def _beyond(self, number: int) -> int | None:
        """Return the first number after the excluded range that contains a number; None if none does."""
        return next((last + 1 for first, last in self._spans if first <= number <= last), None)


def _span(excluded: Range) -> tuple[int, int]:
    return int(ipaddress.ip_address(excluded.first)), int(ipaddress.ip_address(excluded.last))


def macs(project: str, network: OvnNetwork, guests: tuple[Guest, ...]) -> dict[tuple[str, int], str]:
    """Return the MAC addresses of all interfaces. A golden image has one interface."""
    taken = {port.mac for router in network.routers.values() for port in router.ports}
    taken |= {
        port.internal.mac
        for switch in network.switches.values()
        for port in switch.ports
        if port.internal is not None
    }
    taken |= {each.mac for guest in guests for each in guest.attachments if each.mac is not None}
    found: dict[tuple[str, int], str] = {}
    for guest in guests:
        given = [each.mac for each in guest.attachments] or [None]
        for index, mac in enumerate(given):
            attempts = (derived_mac(project, guest.identity, index, attempt) for attempt in count())
            found[guest.name, index] = mac or next(each for each in attempts if each not in taken)
            taken.add(found[guest.name, index])
    return found


def no_room(path: Path, guest: Guest, subnet: str) -> Complaint:
    """Return the problem of an interface that no address is left for."""
    return Complaint(
        code="subnet-too-small",
        path=path,
        message=f"{subnet} has no address left for {guest.name!r}",
        wanted="a larger subnet, or fewer excluded addresses",
    )


def interface_path(guest: Guest, nic: SwitchNic) -> Path:
    """Return where the YAML has an interface."""
    at: Path = ("machines", guest.machine.index)
    return (*at, *nic.at) if nic.at[0] != "scaling" else (*at, guest.machine.kind, *nic.at)
