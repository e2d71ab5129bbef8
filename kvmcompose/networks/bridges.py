"""Open vSwitch bridges: the dialect with ``bridges``, ``bridge_connections`` and ``external_bridge``."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import NetworkPlan
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import (
    Attachment,
    Guest,
    Host,
    Link,
    LogicalTestbed,
    Machine,
    Management,
    PlacedTestbed,
    ScaledAttachment,
    Segment,
    Topology,
)
from kvmcompose.core.nic import nic_keys
from kvmcompose.core.privilege import Privilege
from kvmcompose.core.state import Interface, State
from kvmcompose.networks import (
    _addresses,
    _as_ovn,
    _connectivity,
    _drawing,
    _hold,
    _management,
    _plan,
    _privileges,
    _specialise,
    _stored,
)
from kvmcompose.networks._connected import DisjointSets, connected
from kvmcompose.networks._nics import check_nics
from kvmcompose.networks._specialise import Bridge, HostNic, Network, NetworkState
from kvmcompose.render.network import network_xml

_Path = tuple[str | int, ...]
#: No machine can have an address in it (RFC 1122, section 3.2.1.3).
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
#: How many names a message lists.
_SHOWN = 40


INTERFACES = "interfaces"


def _attachment(entry: dict[str, Any], at: _Path) -> Attachment:
    mac = entry.get("mac")
    return Attachment(
        entry["bridge"], mac.lower() if mac else None, entry.get("ip"), keys=nic_keys(entry), at=at
    )


as_ovn = _as_ovn.as_ovn
drawing = _drawing.drawing


def attachments(machine: dict[str, Any]) -> tuple[Attachment, ...]:
    """Return the ``interfaces`` of a machine."""
    entries = enumerate(machine.get(INTERFACES, ()))
    return tuple(_attachment(entry, (INTERFACES, index)) for index, entry in entries)


def scaled(entries: Sequence[dict[str, Any]]) -> tuple[ScaledAttachment, ...]:
    """Return the ``scaling.interfaces`` of a machine."""
    return tuple(
        ScaledAttachment(_attachment(entry, ("scaling", INTERFACES, index)), tuple(entry["clones"]), index)
        for index, entry in enumerate(entries)
    )


def parse(section: dict[str, Any]) -> Network:
    """Parse the ``network`` section. Connections can be a mapping or a list of pairs."""
    connections = section.get("bridge_connections", {})
    # the order of keys has no meaning and must not affect artefacts; that of a list is the user's choice
    pairs = sorted(connections.items()) if isinstance(connections, dict) else connections
    return Network(
        bridges=msgspec.convert(section.get("bridges", []), tuple[Bridge, ...]),
        connections=tuple(Link(source, target) for source, target in pairs),
        connections_are_pairs=not isinstance(connections, dict),
        external_bridge=section.get("external_bridge"),
        network_interfaces=msgspec.convert(section.get("network_interfaces", []), tuple[HostNic, ...]),
    )


def topology(network: Network) -> Topology:
    """Return every bridge as a segment, every connection as a link."""
    segments = tuple(Segment(bridge.name) for bridge in network.bridges)
    return Topology(segments, network.connections, network.external_bridge)


def check(network: Network, machines: Sequence[Machine], hosts: Sequence[Host]) -> Iterator[Complaint]:
    """Yield problems: duplicate or unknown bridges, loops, interfaces without a bridge, invalid addresses."""
    names = [bridge.name for bridge in network.bridges]
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            yield Complaint(
                code="duplicate-name",
                path=("network", "bridges", index, "name"),
                message=f"there is a bridge {name!r} already (bridges[{first[name]}])",
            )
    known = set(names)
    yield from _check_connections(network, known)
    if network.external_bridge is not None:
        yield from _unknown(network.external_bridge, known, ("network", "external_bridge"))
    yield from _check_host_nics(network, known, {host.name for host in hosts})
    yield from _check_subnets(network)
    yield from _check_interfaces(machines, known)
    yield from _check_addresses(network, machines)
    yield from check_nics(machines, hosts, _specialise.largest_mtu(hosts))


def _unknown(name: str, known: set[str], path: _Path, *, at_key: bool = False) -> Iterator[Complaint]:
    if name not in known:
        yield Complaint(
            code="unknown-bridge",
            path=path,
            message=f"there is no bridge {name!r}",
            wanted=_one_of(known) if known else "a bridge of network.bridges",
            at_key=at_key,
        )


def _one_of(known: set[str]) -> str:
    """Return the names for a message: only a few of many, because many messages may list them."""
    names = sorted(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"one of: {', '.join(names[:_SHOWN])}{more}"


def _check_connections(network: Network, known: set[str]) -> Iterator[Complaint]:
    at: _Path = ("network", "bridge_connections")
    sets = DisjointSets(known)
    seen: set[frozenset[str]] = set()
    for index, link in enumerate(network.connections):
        pairs = network.connections_are_pairs
        path = (*at, index) if pairs else (*at, link.source)
        unknown = [
            *_unknown(link.source, known, (*path, 0) if pairs else path, at_key=not pairs),
            *_unknown(link.target, known, (*path, 1) if pairs else path),
        ]
        yield from unknown
        ends = frozenset((link.source, link.target))
        if link.source == link.target:
            yield Complaint(
                code="bridge-loop", path=path, message=f"bridge {link.source!r} is connected to itself"
            )
        elif ends in seen:
            yield Complaint(
                code="duplicate-connection",
                path=path,
                message=f"{link.source!r} and {link.target!r} are connected already",
            )
        elif not unknown and not sets.join(link.source, link.target):
            yield Complaint(
                code="bridge-loop",
                path=path,
                message=f"{link.source!r} and {link.target!r} are already joined by other connections: "
                "this one would close a loop",
                hint="frames would circulate for ever in a loop of bridges; remove one connection",
            )
        seen.add(ends)


def _check_host_nics(network: Network, known: set[str], hosts: set[str]) -> Iterator[Complaint]:
    seen: set[tuple[str, str]] = set()
    for index, nic in enumerate(network.network_interfaces):
        at: _Path = ("network", "network_interfaces", index)
        yield from _unknown(nic.testbed_bridge, known, (*at, "testbed_bridge"))
        if nic.testbed_host not in hosts:
            yield Complaint(
                code="unknown-host",
                path=(*at, "testbed_host"),
                message=f"there is no testbed host {nic.testbed_host!r}",
                wanted=f"one of: {', '.join(sorted(hosts))}",
            )
        if (nic.testbed_host, nic.nic_name) in seen:
            yield Complaint(
                code="duplicate-name",
                path=(*at, "nic_name"),
                message=f"{nic.nic_name!r} of {nic.testbed_host!r} is in the testbed already",
            )
        seen.add((nic.testbed_host, nic.nic_name))


def _check_subnets(network: Network) -> Iterator[Complaint]:
    home = connected(topology(network))
    first: dict[str, Bridge] = {}
    for index, bridge in enumerate(network.bridges):
        if bridge.subnet is None:
            continue
        at: _Path = ("network", "bridges", index, "subnet")
        wanted = f"an IPv4 subnet of /{_addresses.LARGEST} to /{_addresses.SMALLEST}"
        try:
            subnet = ipaddress.IPv4Network(bridge.subnet)
        except ValueError as error:
            yield Complaint(
                code="bad-address",
                path=at,
                message=f"not a subnet: {error}",
                found=repr(bridge.subnet),
                wanted=wanted,
            )
            continue
        is_sized = _addresses.LARGEST <= subnet.prefixlen <= _addresses.SMALLEST
        if not (is_sized and _is_usable(subnet[0]) and _is_usable(subnet[-1])):
            yield Complaint(
                code="bad-address", path=at, message=f"{subnet} cannot be a subnet of guests", wanted=wanted
            )
            continue
        other = first.setdefault(home[bridge.name], bridge)
        if other.subnet is not None and ipaddress.IPv4Network(other.subnet) != subnet:
            yield Complaint(
                code="two-subnets",
                path=at,
                message=f"{bridge.name!r} is connected to {other.name!r}, whose subnet is {other.subnet}",
                found=bridge.subnet,
                hint="guests of connected bridges share one subnet: remove one of the two",
            )


def _interfaces(machine: Machine) -> Iterator[tuple[_Path, Attachment]]:
    """Yield every interface of a machine as written, with its path."""
    for index, attachment in enumerate(machine.attachments):
        yield ("machines", machine.index, "interfaces", index), attachment
    for index, scaled_attachment in enumerate(machine.scaled):
        path = ("machines", machine.index, machine.kind, "scaling", "interfaces", index)
        yield path, scaled_attachment.attachment


def _check_clones(machine: Machine) -> Iterator[Complaint]:
    for index, each in enumerate(machine.scaled):
        ip = None if each.attachment.ip == _addresses.DYNAMIC else each.attachment.ip
        for key, value in (("ip", ip), ("mac", each.attachment.mac)):
            if value is not None and len(each.clones) > 1:
                yield Complaint(
                    code="shared-address",
                    path=("machines", machine.index, machine.kind, "scaling", "interfaces", index, key),
                    message=f"{len(each.clones)} clones cannot all have the {key} {value}",
                    wanted="one number in `clones`",
                    hint="add an entry for each clone that is to have an address of its own",
                )


def _check_interfaces(machines: Sequence[Machine], known: set[str]) -> Iterator[Complaint]:
    for machine in machines:
        found = list(_interfaces(machine))
        if not found:
            yield Complaint(
                code="no-interface",
                path=("machines", machine.index),
                message=f"{machine.name!r} has no interface: nothing could reach it",
                hint="add `interfaces: [{bridge: …}]`",
            )
        for path, attachment in found:
            yield from _unknown(attachment.segment, known, (*path, "bridge"))
        yield from _check_clones(machine)


def _check_addresses(network: Network, machines: Sequence[Machine]) -> Iterator[Complaint]:
    home = connected(topology(network))
    macs: dict[str, str] = {}
    ips: dict[tuple[str, str], str] = {}
    for machine in machines:
        for path, attachment in _interfaces(machine):
            if attachment.mac is not None:
                yield from _addresses.check_mac(attachment.mac, (*path, "mac"), macs.get(attachment.mac))
                macs.setdefault(attachment.mac, repr(machine.name))
            ip = attachment.ip
            if ip is None or ip == _addresses.DYNAMIC:
                continue
            place = (home.get(attachment.segment, attachment.segment), ip)
            yield from _check_ip(ip, (*path, "ip"), ips.get(place))
            ips.setdefault(place, machine.name)


def _is_usable(address: ipaddress.IPv4Address) -> bool:
    return not (
        address.is_multicast or address.is_loopback or address in _THIS_NETWORK or address.is_reserved
    )


def _check_ip(ip: str, path: _Path, taken_by: str | None) -> Iterator[Complaint]:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        hint = "the subnet is derived: remove the prefix length" if "/" in ip else None
        yield Complaint(
            code="bad-address",
            path=path,
            message="not an address",
            found=repr(ip),
            wanted="an IPv4 address or dynamic",
            hint=hint,
        )
        return
    if not (isinstance(address, ipaddress.IPv4Address) and _is_usable(address)):
        yield Complaint(
            code="bad-address",
            path=path,
            message=f"{ip} cannot be a guest's address",
            wanted="an IPv4 address of one machine, or dynamic",
        )
    elif taken_by is not None:
        yield Complaint(
            code="duplicate-address",
            path=path,
            message=f"{taken_by!r} already has the address {ip}, on a connected bridge",
        )


def check_management(
    network: Network, guests: Sequence[Guest], management: Management
) -> Iterator[Complaint]:
    """See ``networks.check_management``."""
    served = _specialise.served(topology(network))
    yield from _management.check(guests, management, served, _specialise.Paths().interface)


def specialise(placed: PlacedTestbed) -> tuple[NetworkState, dict[str, tuple[Interface, ...]], str | None]:
    """See ``Dialect.specialise``."""
    return _specialise.specialise(placed)


def artefacts(state: State) -> Iterator[Artefact]:
    """Yield the libvirt network, with the guests' addresses as DHCP reservations."""
    network: NetworkState = state.network
    names = [bridge.name for bridge in network.bridges]
    external = state.testbed_host_shared_config.external_bridge
    served = _plan.served(names, network.logical_bridge_connections, external)
    yield network_xml(state, network, served)


def check_state(state: State) -> Iterator[Complaint]:
    """Check by the rules of the YAML, and that names and addresses are as ``specialise`` assigns them."""
    return _stored.check_state(state, _stored.Rules(section=check, ip=_check_ip))


def keeper(before: State, logical: LogicalTestbed) -> _hold.Keeper:
    """Return what keeps addresses by ``subnet``, ``ip`` and ``mac``."""
    return _hold.Keeper(before, logical)


def connectivity(logical: LogicalTestbed) -> _connectivity.Connectivity:
    """Return what knows which guests the connections of bridges join."""
    return _connectivity.of_bridges(logical)


def network_plan(state: State) -> NetworkPlan:
    """Return the bridges, veth pairs and tunnels to create."""
    return _plan.network_plan(state)


def privileges(state: State, *, for_member: bool) -> Iterator[Privilege]:
    """Yield the hosts' network interfaces in use, and the OpenFlow controllers."""
    return _privileges.privileges(_plan.network_plan(state), for_member=for_member)
