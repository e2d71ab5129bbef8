"""Management ports of bridges, through which the server reaches isolated guests.

A guest is isolated if none of its bridges is connected to the external one. Each bridge with such a guest has
a port, on its own host: it does not depend on links between bridges, and the server's packets pass none of
them. Its address is derived from names after those of the guests. A new guest may change the address of the
port; the port never changes that of a guest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.deployable import LinkPort, ManagementAccess, ManagementPort
from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.model import Guest, Management
from kvmcompose.core.names import UniqueNames, is_derived, management_namespace
from kvmcompose.core.resource import Ref, Resource
from kvmcompose.core.state import GuestState, Interface, State
from kvmcompose.networks import _addresses

_Path = tuple[str | int, ...]
_MANAGEMENT: _Path = ("testbed_options", "management")


class PortState(msgspec.Struct, frozen=True):
    """The management port of a bridge in the state. ``port`` is its interface on the host of the bridge."""

    bridge: str
    port: str
    mac: str
    ip: str
    prefix_length: int
    guests: tuple[str, ...]


def managed(
    guests: Sequence[Guest], management: Management, served: Collection[str]
) -> Iterator[tuple[Guest, int | None]]:
    """Yield the isolated guests to reach, with the interface to use.

    That is the first interface with a known address whose link is up and which is in no VLAN, None if there
    is none. ``served`` are the bridges that the main host reaches.
    """
    for guest in guests:
        near = any(each.segment in served and each.keys.is_in_reach for each in guest.attachments)
        if not guest.attachments or guest.name in management.excluded or near:
            continue
        known = (
            i
            for i, each in enumerate(guest.attachments)
            if each.ip != _addresses.DYNAMIC and each.keys.is_in_reach and each.segment not in served
        )
        yield guest, next(known, None)


def check(
    guests: Sequence[Guest],
    management: Management,
    served: Collection[str],
    path: Callable[[Guest, int], _Path],
) -> Iterator[Complaint]:
    """Yield a warning for each entry of the YAML with guests that have no known address."""
    lacking: dict[_Path, Guest] = {}
    for guest, index in managed(guests, management, served):
        if index is None:
            lacking.setdefault((*path(guest, 0), "ip"), guest)
    for at, guest in lacking.items():
        if not any(each.keys.is_in_reach for each in guest.attachments):
            yield Complaint(
                code="unmanaged-guest",
                path=at[:-1],
                message=f"{guest.name!r} cannot be reached: its interfaces are in VLANs, or have no link",
                hint="add an interface in no VLAN; or name the guest in testbed_options.management.except",
                severity=Severity.WARNING,
            )
            continue
        yield Complaint(
            code="unmanaged-guest",
            path=at,
            message=f"{guest.name!r} cannot be reached: its address is dynamic, and no connection leads from"
            f" {guest.attachments[0].segment!r} to the DHCP server of the external bridge",
            hint="remove the ip (an address is derived) or give one; or name the guest in "
            "testbed_options.management.except",
            severity=Severity.WARNING,
        )


class Specialised(msgspec.Struct, frozen=True):
    """What the ports of a testbed depend on: ``subnets`` by bridge, ``interfaces`` by guest."""

    project: str
    guests: Sequence[Guest]
    management: Management
    served: Collection[str]
    subnets: Mapping[str, _addresses.Subnet]
    interfaces: Mapping[str, Sequence[Interface]]
    #: Where the YAML has the subnet of a bridge, or what makes it too small.
    path: Callable[[str], _Path]

    def ports(self, names: UniqueNames) -> tuple[tuple[PortState, ...], list[Complaint]]:
        """Return the ports, in the order in which the guests need them, and what is wrong."""
        reached: dict[str, list[str]] = {}
        for guest, index in managed(self.guests, self.management, self.served):
            if index is not None:
                reached.setdefault(guest.attachments[index].segment, []).append(guest.name)
        nics = [nic for each in self.interfaces.values() for nic in each]
        macs = {nic.mac for nic in nics}
        # addresses of other networks are no harm, but for the subnets that several use by the YAML
        taken = {int(ipaddress.IPv4Address(nic.ip)) for nic in nics if nic.ip != _addresses.DYNAMIC}
        ports: list[PortState] = []
        full: list[Complaint] = []
        for bridge, guests in reached.items():
            subnet = self.subnets[bridge]
            number = _addresses.free_address(self.project, bridge, subnet.network, taken)
            if number is None:
                full.append(self._full(bridge, subnet.network))
                continue
            taken.add(number)
            mac = _addresses.management_mac(self.project, bridge, macs)
            macs.add(mac)
            name = names.name(f"{self.project}-{bridge}-mgmt")
            ip = str(ipaddress.IPv4Address(number))
            ports.append(PortState(bridge, name, mac, ip, subnet.prefix_length, tuple(guests)))
        return tuple(ports), full

    def _full(self, bridge: str, subnet: ipaddress.IPv4Network) -> Complaint:
        return Complaint(
            code="no-free-address",
            path=self.path(bridge),
            message=f"{subnet} has no free address for the management port of {bridge!r}",
            wanted="a larger subnet",
            hint="or name its guests in testbed_options.management.except",
        )


def access(
    state: State, ports: Sequence[PortState], bridges: Mapping[str, tuple[str, str]], mtu: int
) -> dict[str, ManagementAccess]:
    """Return how guests are reached. ``bridges`` are names and hosts, by the names that the YAML has."""
    found: dict[str, ManagementAccess] = {}
    for port in ports:
        bridge, host = bridges[port.bridge]
        made = ManagementPort(
            host=host,
            namespace=management_namespace(state.project_name, port.bridge),
            bridge=bridge,
            name=port.port,
            mac=port.mac,
            address=f"{port.ip}/{port.prefix_length}",
            mtu=mtu,
            userspace=state.testbed_hosts[host].datapath_type == "netdev",
        )
        for name in port.guests:
            nic = _nic(state.testbed_guests.get(name), port)
            if nic is not None:
                found[name] = ManagementAccess(str(ipv4(nic)), made)
    return found


def _nic(guest: GuestState | None, port: PortState) -> Interface | None:
    """Return the interface by which a guest is reached through a port."""
    nics = guest.interfaces if guest is not None else ()
    suitable = (nic for nic in nics if nic.bridge == port.bridge and nic.is_in_reach)
    return next((nic for nic in suitable if ipv4(nic) is not None), None)


def ipv4(nic: Interface) -> str | None:
    """Return the IPv4 address of an interface, as far as it is known."""
    return next((each for each in nic.addresses if ":" not in each), None)


def resources(ways: Mapping[str, ManagementAccess]) -> Iterator[Resource]:
    """Yield the ports, each after its bridge and its namespace."""
    for port in dict.fromkeys(each.port for each in ways.values()):
        own = Ref("management-port", port.namespace, port.host)
        yield Resource(ref=own, spec=port)
        yield Resource(
            ref=Ref("ovs-port", port.name, port.host),
            spec=LinkPort(host=port.host, bridge=port.bridge, name=port.name),
            needs=(Ref("ovs-bridge", port.bridge, port.host), own),
        )


# -- a state that is read back


def check_stored(
    state: State,
    ports: Sequence[PortState],
    served: Collection[str],
    *,
    attach: str = "ovs",
    other_macs: Collection[str] = (),
    other_names: Collection[str] = (),
) -> Iterator[Complaint]:
    """Yield what ``Specialised.ports`` could not have written.

    ``attach`` is how guests are attached to what the ports are on; the others are what else has names and MAC
    addresses.
    """
    project = state.project_name
    nics = [nic for guest in state.testbed_guests.values() for nic in guest.interfaces]
    macs = {*(nic.mac for nic in nics), *other_macs}
    names = {*(nic.target for nic in nics), *other_names}
    taken = {nic.ip for nic in nics}
    reached: set[str] = set()
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at: _Path = ("network", "management_ports", index)
        if port.bridge in seen or port.bridge in served:
            yield _wrong((*at, "bridge"), f"{port.bridge!r} needs no port, or has one", "another bridge")
            continue
        seen.add(port.bridge)
        wanted = f"{project}-{port.bridge}-mgmt"
        if not is_derived(port.port, wanted) or port.port in names:
            yield _wrong((*at, "port"), f"{port.port!r} is not the derived name", f"{wanted}, shortened")
        if port.mac != _addresses.management_mac(project, port.bridge, macs):
            yield _wrong((*at, "mac"), f"{port.mac} is not the derived address", "the derived one")
        macs.add(port.mac)
        names.add(port.port)
        if port.ip in taken:
            yield _wrong((*at, "ip"), f"{port.ip} is the address of a guest or another port", "a free one")
        taken.add(port.ip)
        for number, name in enumerate(port.guests):
            if name in reached or not _fits(state.testbed_guests.get(name), port, served, attach):
                yield _wrong(
                    (*at, "guests", number), f"{name!r} is not reached by this port", "a guest there"
                )
            reached.add(name)


def _fits(guest: GuestState | None, port: PortState, served: Collection[str], attach: str) -> bool:
    """Return whether a guest is reached through a port, which has another address of the same subnet."""
    nic = _nic(guest, port)
    if guest is None or nic is None or guest.is_golden_image:
        return False
    if any(each.attach != attach for each in guest.interfaces):
        return False
    if any(each.bridge in served and each.is_in_reach for each in guest.interfaces):
        return False
    try:
        subnet = ipaddress.IPv4Network((str(ipv4(nic)), nic.prefix_length), strict=False)
        own = ipaddress.IPv4Address(port.ip)
    except ValueError:
        return False
    inside = own in subnet and own not in (subnet.network_address, subnet.broadcast_address)
    return inside and port.prefix_length == nic.prefix_length


def _wrong(path: _Path, message: str, wanted: str) -> Complaint:
    return Complaint(code="bad-value", path=path, message=message, wanted=wanted)
