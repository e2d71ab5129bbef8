"""Specialise bridges: names on their hosts, addresses, veth pairs in a host, tunnels between hosts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

import msgspec

from kvmcompose.core.errors import Complaint, ComplaintsError
from kvmcompose.core.model import (
    GUEST_MTU,
    GUEST_MTU_OVER_IPV6,
    Attachment,
    Guest,
    Host,
    Link,
    PlacedTestbed,
    Topology,
)
from kvmcompose.core.names import UniqueNames, stable_number
from kvmcompose.core.nic import NicKeys
from kvmcompose.core.state import Interface
from kvmcompose.networks import _addresses, _management
from kvmcompose.networks._connected import connected

#: GENEVE network identifiers have 24 bits (RFC 8926, section 3.3); 0 is left out.
_GENEVE_KEYS = 2**24 - 1


class Bridge(msgspec.Struct, frozen=True):
    """A bridge as written in the YAML. ``subnet`` is that of its connected network, in CIDR notation."""

    name: str
    protocol: str | None = None
    controller: str | None = None
    subnet: str | None = None


class HostNic(msgspec.Struct, frozen=True):
    """A network interface of a host that becomes a port of a bridge."""

    nic_name: str
    testbed_bridge: str
    testbed_host: str


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The network section as written. With ``connections_are_pairs`` the connections are a list of pairs,
    otherwise a mapping.
    """

    bridges: tuple[Bridge, ...]
    connections: tuple[Link, ...]
    connections_are_pairs: bool
    external_bridge: str | None
    network_interfaces: tuple[HostNic, ...]


class BridgeState(msgspec.Struct, frozen=True):
    """A bridge on its host, where its name is ``ovs_name``."""

    name: str
    ovs_name: str
    testbed_host: str
    protocol: str | None
    controller: str | None


class OvsConnection(msgspec.Struct, frozen=True):
    """A veth pair that connects two bridges of one host."""

    source_br: str
    target_br: str
    source_veth: str
    target_veth: str
    testbed_host: str


class TunnelConnection(msgspec.Struct, frozen=True):
    """A GENEVE tunnel (RFC 8926) that connects two bridges of different hosts.

    ``source_remote_ip`` is the remote address of the source's port: the address of the target's host.
    """

    source_br: str
    target_br: str
    source_port: str
    target_port: str
    source_remote_ip: str
    target_remote_ip: str
    key: int
    testbed_host_source: str
    testbed_host_target: str


class NetworkState(msgspec.Struct, frozen=True, kw_only=True):
    """The network section of the state."""

    dialect: str
    libvirt_network_name: str
    libvirt_network_bridge_name: str
    libvirt_network_subnet: str
    libvirt_network_gateway: str
    veth_peer_left: str
    veth_peer_right: str
    mtu: int
    bridges: tuple[BridgeState, ...]
    logical_bridge_connections: tuple[tuple[str, str], ...]
    physical_bridge_connections: dict[str, dict[str, OvsConnection | TunnelConnection]]
    network_interfaces: tuple[HostNic, ...]
    management_ports: tuple[_management.PortState, ...] | msgspec.UnsetType = msgspec.UNSET


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the functions of this module share."""

    placed: PlacedTestbed
    names: UniqueNames
    bridges: dict[str, BridgeState]
    home: dict[str, str]
    external: str

    @property
    def project(self) -> str:
        return self.placed.logical.project


def specialise(placed: PlacedTestbed) -> tuple[NetworkState, dict[str, tuple[Interface, ...]], str | None]:
    """Return the network section of the state, every guest's interfaces, and the external bridge's name."""
    names = UniqueNames()
    project = placed.logical.project
    network: Network = placed.logical.network
    libvirt_bridge = names.name(f"{project}-prjbr0")
    veths = names.name(f"{project}-veth0"), names.name(f"{project}-veth1")
    bridges = {
        bridge.name: BridgeState(
            name=bridge.name,
            ovs_name=names.name(f"{project}-{bridge.name}"),
            testbed_host=placed.placement.segments[bridge.name],
            protocol=bridge.protocol,
            controller=bridge.controller,
        )
        for bridge in network.bridges
    }
    home = connected(placed.logical.topology)
    external = home[network.external_bridge] if network.external_bridge else ""
    plan = _Plan(placed=placed, names=names, bridges=bridges, home=home, external=external)
    addresses, complaints = _assign(plan)
    complaints += _mixed_tunnels(plan)
    if complaints:
        raise ComplaintsError(complaints)
    subnet = addresses.subnets[external]
    state = NetworkState(
        dialect=placed.logical.dialect,
        libvirt_network_name=f"{project}-network",
        libvirt_network_bridge_name=libvirt_bridge,
        libvirt_network_subnet=str(subnet.network),
        libvirt_network_gateway=str(subnet.gateway),
        veth_peer_left=veths[0],
        veth_peer_right=veths[1],
        mtu=largest_mtu(placed.logical.hosts),
        bridges=tuple(bridges.values()),
        logical_bridge_connections=tuple((link.source, link.target) for link in network.connections),
        physical_bridge_connections=_connections(plan),
        network_interfaces=network.network_interfaces,
    )
    interfaces = {
        guest.name: tuple(_interfaces(plan, guest, state, addresses)) for guest in placed.logical.guests
    }
    ports, full = _management_ports(plan, addresses, interfaces)
    if full:
        raise ComplaintsError(full)
    if ports:
        state = msgspec.structs.replace(state, management_ports=ports)
    return state, interfaces, network.external_bridge


def _management_ports(
    plan: _Plan, addresses: _addresses.Addresses, interfaces: dict[str, tuple[Interface, ...]]
) -> tuple[tuple[_management.PortState, ...], list[Complaint]]:
    logical = plan.placed.logical
    if logical.management is None:
        return (), []
    network: Network = logical.network

    def path(name: str) -> tuple[str | int, ...]:
        written = (
            index
            for index, bridge in enumerate(network.bridges)
            if bridge.subnet is not None and plan.home[bridge.name] == plan.home[name]
        )
        found = next(written, None)
        return ("testbed_options", "management") if found is None else ("network", "bridges", found, "subnet")

    return _management.Specialised(
        project=plan.project,
        guests=logical.guests,
        management=logical.management,
        served=served(logical.topology),
        subnets={
            name: addresses.subnets[home] for name, home in plan.home.items() if home in addresses.subnets
        },
        interfaces=interfaces,
        path=path,
    ).ports(plan.names)


def served(topology: Topology) -> frozenset[str]:
    """Return the bridges connected to the external one, and so to the libvirt network and the main host."""
    home = connected(topology)
    if topology.external not in home:  # none, or one that there is not, which is reported elsewhere
        return frozenset()
    return frozenset(name for name in home if home[name] == home[topology.external])


def _is_ipv6(host: Host) -> bool:
    """Return whether tunnels reach a host over IPv6. `up` resolves names to IPv4 addresses."""
    try:
        return ipaddress.ip_address(host.ip).version == 6  # noqa: PLR2004
    except ValueError:
        return False


def largest_mtu(hosts: Iterable[Host]) -> int:
    """Return the MTU of all guests that have no smaller one.

    It depends on the hosts only, and not on where bridges are: tunnels over IPv6 need two hosts with IPv6
    addresses.
    """
    return GUEST_MTU_OVER_IPV6 if sum(map(_is_ipv6, hosts)) > 1 else GUEST_MTU


def _mixed_tunnels(plan: _Plan) -> Iterator[Complaint]:
    """Yield the pairs of hosts with a tunnel between them whose addresses are not of one family."""
    hosts = {host.name: host for host in plan.placed.logical.hosts}
    seen: set[frozenset[str]] = set()
    for link in plan.placed.logical.topology.links:
        ends = [hosts[plan.bridges[name].testbed_host] for name in (link.source, link.target)]
        pair = frozenset(host.name for host in ends)
        if len({_is_ipv6(host) for host in ends}) == 1 or pair in seen:
            continue
        seen.add(pair)
        for host, other in (ends, reversed(ends)):
            yield Complaint(
                code="mixed-addresses",
                path=("testbed_host_ssh_config", host.name, "ip"),
                message=f"{host.ip} is {_family(host)} and {other.ip} of {other.name!r} is {_family(other)}: "
                f"nothing would pass the tunnel between {link.source!r} and {link.target!r}",
                wanted="addresses of one family, both IPv4 or both IPv6",
            )


def _family(host: Host) -> str:
    return "IPv6" if _is_ipv6(host) else "IPv4"


def _assign(plan: _Plan) -> tuple[_addresses.Addresses, list[Complaint]]:
    """Assign addresses. Golden images, which have no interfaces of their own, are on the external network."""
    requests = []
    paths = Paths()
    for guest in plan.placed.logical.guests:
        at: tuple[str | int, ...] = ("machines", guest.machine.index)
        if guest.is_golden_image:
            requests.append(
                _addresses.AddressRequest(guest.name, 0, plan.external, None, None, at, guest.identity)
            )
        for index, attachment in enumerate(guest.attachments):
            path = paths.interface(guest, index)
            segment = plan.home[attachment.segment]
            requests.append(
                _addresses.AddressRequest(
                    guest.name, index, segment, attachment.mac, attachment.ip, path, guest.identity
                )
            )
    network: Network = plan.placed.logical.network
    written = {
        plan.home[bridge.name]: _addresses.WrittenSubnet(
            ipaddress.IPv4Network(bridge.subnet), ("network", "bridges", index, "subnet")
        )
        for index, bridge in enumerate(network.bridges)
        if bridge.subnet is not None
    }
    addresses, complaints = _addresses.assign(plan.project, requests, plan.external, written)
    return addresses, list(complaints)


class Paths:
    """Where the YAML has the interfaces of guests. Machines may have many clones."""

    def __init__(self) -> None:
        self._entries: dict[int, dict[Attachment, int]] = {}

    def interface(self, guest: Guest, index: int) -> tuple[str | int, ...]:
        """Return the path of an interface."""
        machine = guest.machine
        at: tuple[str | int, ...] = ("machines", machine.index)
        if guest.golden_image is None:
            return (*at, "interfaces", index)
        if machine.index not in self._entries:
            entries = [*enumerate(machine.scaled)]
            self._entries[machine.index] = {each.attachment: number for number, each in reversed(entries)}
        number = self._entries[machine.index].get(guest.attachments[index], index)
        return (*at, machine.kind, "scaling", "interfaces", number)


def _interfaces(
    plan: _Plan, guest: Guest, state: NetworkState, addresses: _addresses.Addresses
) -> Iterator[Interface]:
    segments = [None] if guest.is_golden_image else [each.segment for each in guest.attachments]
    routed = False
    keys = [NicKeys()] if guest.is_golden_image else [each.keys for each in guest.attachments]
    for index, segment in enumerate(segments):
        subnet = addresses.subnets[plan.external if segment is None else plan.home[segment]]
        # that of the external bridge is in no VLAN
        gateway = subnet.gateway if keys[index].vlan is None else None
        nic = Interface(
            bridge=segment or state.libvirt_network_name,
            attach="ovs" if segment else "network",
            source=plan.bridges[segment].ovs_name if segment else state.libvirt_network_name,
            target=plan.names.name(f"{plan.project}-{guest.identity}-{index}"),
            mac=addresses.macs[guest.name, index],
            ip=addresses.ips[guest.name, index],
            prefix_length=subnet.prefix_length,
            mtu=state.mtu,
            # a second default route would compete with the first
            gateway=None if routed else gateway,
        )
        yield nic.with_keys(keys[index])
        routed = routed or gateway is not None


def _connections(plan: _Plan) -> dict[str, dict[str, OvsConnection | TunnelConnection]]:
    ips = {host.name: host.ip for host in plan.placed.logical.hosts}
    keys: set[int] = set()
    found: dict[str, dict[str, OvsConnection | TunnelConnection]] = {}
    for link in plan.placed.logical.topology.links:
        source, target = plan.bridges[link.source], plan.bridges[link.target]
        ends = (
            plan.names.name(f"{plan.project}-{link.source}-{link.target}"),
            plan.names.name(f"{plan.project}-{link.target}-{link.source}"),
        )
        connection: OvsConnection | TunnelConnection
        if source.testbed_host == target.testbed_host:
            connection = OvsConnection(source.ovs_name, target.ovs_name, *ends, source.testbed_host)
        else:
            connection = TunnelConnection(
                source_br=source.ovs_name,
                target_br=target.ovs_name,
                source_port=ends[0],
                target_port=ends[1],
                source_remote_ip=ips[target.testbed_host],
                target_remote_ip=ips[source.testbed_host],
                key=_geneve_key(plan.project, link, keys),
                testbed_host_source=source.testbed_host,
                testbed_host_target=target.testbed_host,
            )
        kind = "ovs" if isinstance(connection, OvsConnection) else "tunnel"
        found[f"{link.source}:{link.target}"] = {kind: connection}
    return found


def _geneve_key(project: str, link: Link, taken: set[int]) -> int:
    """Return a key that depends on the pair only, not on its order."""
    attempt = 0
    while True:
        key = (
            1 + stable_number("geneve", project, *sorted((link.source, link.target)), attempt) % _GENEVE_KEYS
        )
        if key not in taken:
            taken.add(key)
            return key
        attempt += 1
