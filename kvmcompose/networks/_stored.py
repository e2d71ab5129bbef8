"""Check that a build could have written the state of Open vSwitch bridges that is read back."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Host, Link, Machine, Segment, Topology
from kvmcompose.core.names import is_derived
from kvmcompose.core.state import GuestState, Interface, State
from kvmcompose.networks import _management
from kvmcompose.networks._addresses import DYNAMIC, LARGEST, SMALLEST, check_mac
from kvmcompose.networks._connected import connected
from kvmcompose.networks._nics import check_mtu
from kvmcompose.networks._specialise import (
    Bridge,
    BridgeState,
    HostNic,
    Network,
    OvsConnection,
    TunnelConnection,
    served,
)

_Path = tuple[str | int, ...]
_Complaints = Iterator[Complaint]


class _Connection(msgspec.Struct, frozen=True):
    """A connection: one of the two is set."""

    ovs: OvsConnection | None = None
    tunnel: TunnelConnection | None = None

    def items(self) -> Iterator[tuple[str, OvsConnection | TunnelConnection]]:
        """Yield the connection with its key."""
        if self.ovs is not None:
            yield "ovs", self.ovs
        if self.tunnel is not None:
            yield "tunnel", self.tunnel


class StoredNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """The checked part of the network section of a ``state.json``."""

    libvirt_network_name: str
    libvirt_network_bridge_name: str
    libvirt_network_subnet: str
    libvirt_network_gateway: str
    veth_peer_left: str
    veth_peer_right: str
    mtu: int
    bridges: tuple[BridgeState, ...]
    logical_bridge_connections: tuple[tuple[str, str], ...]
    physical_bridge_connections: dict[str, _Connection]
    network_interfaces: tuple[HostNic, ...]
    management_ports: tuple[_management.PortState, ...] = ()


class Rules(msgspec.Struct, frozen=True):
    """The rules of the YAML: of the network section, and of an address."""

    section: Callable[[Network, Sequence[Machine], Sequence[Host]], _Complaints]
    ip: Callable[[str, _Path, str | None], _Complaints]


def check_state(state: State, rules: Rules) -> _Complaints:
    """See ``Dialect.check_state``."""
    network = msgspec.convert(state.network, StoredNetwork)
    links = tuple(Link(source, target) for source, target in network.logical_bridge_connections)
    written = Network(
        bridges=tuple(Bridge(each.name) for each in network.bridges),
        connections=links,
        connections_are_pairs=True,
        external_bridge=state.testbed_host_shared_config.external_bridge,
        network_interfaces=network.network_interfaces,
    )
    hosts = tuple(state.testbed_hosts.values())
    found = [_placed(each) for each in rules.section(written, (), hosts)]
    found += _bridges(state, network)
    if not found:  # otherwise the other checks would meet unknown bridges
        found += [*_names(state, network), *_connections(state, network), *_Addresses(state, network, rules)]
        segments = tuple(Segment(each.name) for each in network.bridges)
        reached = served(Topology(segments, links, written.external_bridge))
        found += _management.check_stored(state, network.management_ports, reached)
    yield from found


def _placed(complaint: Complaint) -> Complaint:
    """Return a complaint about the YAML with the path of the value in the state."""
    match complaint.path:
        case ("network", "bridge_connections", *rest):
            path: _Path = ("network", "logical_bridge_connections", *rest)
        case ("network", "external_bridge"):
            path = ("testbed_host_shared_config", "external_bridge")
        case path:
            pass
    return msgspec.structs.replace(complaint, path=path)


def _wrong(path: _Path, message: str, wanted: str) -> Complaint:
    return Complaint(code="bad-value", path=path, message=message, wanted=wanted)


def _bridges(state: State, network: StoredNetwork) -> _Complaints:
    for index, bridge in enumerate(network.bridges):
        if bridge.testbed_host not in state.testbed_hosts:
            yield _wrong(
                ("network", "bridges", index, "testbed_host"),
                f"there is no testbed host {bridge.testbed_host!r}",
                f"one of: {', '.join(state.testbed_hosts)}",
            )


def _names(state: State, network: StoredNetwork) -> _Complaints:
    """Check that names on hosts contain the project's name, so that no state refers to another project."""
    project = state.project_name
    at: _Path = ("network",)
    given: list[tuple[_Path, str, str]] = [
        ((*at, "libvirt_network_bridge_name"), network.libvirt_network_bridge_name, "prjbr0"),
        ((*at, "veth_peer_left"), network.veth_peer_left, "veth0"),
        ((*at, "veth_peer_right"), network.veth_peer_right, "veth1"),
    ]
    given += [
        ((*at, "bridges", index, "ovs_name"), bridge.ovs_name, bridge.name)
        for index, bridge in enumerate(network.bridges)
    ]
    for key, connection in network.physical_bridge_connections.items():
        source, _, target = key.partition(":")
        for kind, each in connection.items():
            path = (*at, "physical_bridge_connections", key, kind)
            ends = _ends(each)
            given.append(((*path, ends[0][0]), ends[0][1], f"{source}-{target}"))
            given.append(((*path, ends[1][0]), ends[1][1], f"{target}-{source}"))
    given += [
        (
            ("testbed_guests", guest.name, "interfaces", index, "target"),
            nic.target,
            f"{guest.identity}-{index}",
        )
        for guest in state.testbed_guests.values()
        for index, nic in enumerate(guest.interfaces)
    ]
    if network.libvirt_network_name != f"{project}-network":
        yield _wrong((*at, "libvirt_network_name"), "not the network of this project", f"{project}-network")
    taken: set[str] = set()
    for path, name, of in given:
        if not is_derived(name, f"{project}-{of}"):
            yield _wrong(path, f"{name!r} is not the derived name", f"{project}-{of}, shortened")
        elif name in taken:
            yield _wrong(path, f"{name!r} is already the name of something else", "a name of its own")
        taken.add(name)


def _ends(connection: OvsConnection | TunnelConnection) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the two interfaces of a connection, with their keys."""
    if isinstance(connection, OvsConnection):
        return ("source_veth", connection.source_veth), ("target_veth", connection.target_veth)
    return ("source_port", connection.source_port), ("target_port", connection.target_port)


def _connections(state: State, network: StoredNetwork) -> _Complaints:
    bridges = {bridge.name: bridge for bridge in network.bridges}
    at: _Path = ("network", "physical_bridge_connections")
    wanted = {f"{source}:{target}": (source, target) for source, target in network.logical_bridge_connections}
    for key in wanted.keys() ^ network.physical_bridge_connections.keys():
        yield _wrong((*at, key), f"{key!r} is not in both lists of connections", "the same connections")
    for key, connection in network.physical_bridge_connections.items():
        if key not in wanted:
            continue
        source, target = (bridges[name] for name in wanted[key])
        for kind, each in connection.items():
            if not _joins(each, source, target, state.testbed_hosts):
                what = f"the bridges {source.ovs_name} and {target.ovs_name}, on their hosts"
                yield _wrong((*at, key, kind), f"it does not join what {key!r} says", what)


def _joins(
    connection: OvsConnection | TunnelConnection,
    source: BridgeState,
    target: BridgeState,
    hosts: dict[str, Host],
) -> bool:
    if (connection.source_br, connection.target_br) != (source.ovs_name, target.ovs_name):
        return False
    if isinstance(connection, OvsConnection):
        return {connection.testbed_host} == {source.testbed_host, target.testbed_host}
    placed = (source.testbed_host, target.testbed_host)
    return (
        (connection.testbed_host_source, connection.testbed_host_target) == placed
        and connection.source_remote_ip == hosts[target.testbed_host].ip
        and connection.target_remote_ip == hosts[source.testbed_host].ip
    )


class _Addresses:
    """Checks addresses: a connected network has one subnet, and no two interfaces have the same address."""

    def __init__(self, state: State, network: StoredNetwork, rules: Rules) -> None:
        self._state = state
        self._network = network
        self._rules = rules
        self._bridges = {bridge.name: bridge for bridge in network.bridges}
        external = state.testbed_host_shared_config.external_bridge
        links = tuple(Link(*pair) for pair in network.logical_bridge_connections)
        self._home = connected(Topology(tuple(Segment(name) for name in self._bridges), links, external))
        self._external = self._home[external] if external is not None else ""
        self._subnets: dict[str, ipaddress.IPv4Network] = {}
        self._macs: dict[str, str] = {}
        self._ips: dict[tuple[str, str], str] = {}

    def __iter__(self) -> _Complaints:
        """Yield the problems."""
        found = list(self._nat())
        if not found:
            for guest in self._state.testbed_guests.values():
                for index, nic in enumerate(guest.interfaces):
                    found += self._interface(guest, nic, ("testbed_guests", guest.name, "interfaces", index))
        yield from found

    def _nat(self) -> _Complaints:
        """Check the subnet of the NAT network."""
        at: _Path = ("network", "libvirt_network_subnet")
        subnet = _subnet(self._network.libvirt_network_subnet)
        if subnet is None or not LARGEST <= subnet.prefixlen <= SMALLEST:
            yield _wrong(at, "not a subnet of guests", f"a subnet of /{LARGEST} to /{SMALLEST}")
            return
        self._subnets[self._external] = subnet
        gateway = str(subnet[1])
        if self._network.libvirt_network_gateway != gateway:
            yield _wrong(("network", "libvirt_network_gateway"), "not the gateway of its subnet", gateway)
        yield from self._rules.ip(gateway, at, None)

    def _interface(self, guest: GuestState, nic: Interface, at: _Path) -> _Complaints:
        segment = self._segment(guest, nic)
        if segment is None:
            yield _wrong(
                at,
                f"there is no {nic.bridge!r} on {guest.testbed_host} that is called {nic.source!r} there",
                "a bridge on the guest's host, or the network of the project",
            )
            return
        yield from check_mac(nic.mac, (*at, "mac"), self._macs.get(nic.mac))
        self._macs.setdefault(nic.mac, repr(guest.name))
        if nic.attach == "ovs":
            yield from check_mtu(nic, self._network.mtu, at)
        gateway = self._network.libvirt_network_gateway if segment == self._external else None
        if nic.gateway not in (None, gateway):
            yield _wrong((*at, "gateway"), f"{nic.gateway} is not the gateway there", gateway or "none")
        if nic.ip == DYNAMIC:
            return
        usable = list(self._rules.ip(nic.ip, (*at, "ip"), self._ips.get((segment, nic.ip))))
        self._ips.setdefault((segment, nic.ip), guest.name)
        yield from usable or self._in_subnet(segment, nic, at)

    def _segment(self, guest: GuestState, nic: Interface) -> str | None:
        """Return the connected network that an interface is on, or None."""
        if nic.attach == "network":
            name = self._network.libvirt_network_name
            return self._external if (nic.bridge, nic.source) == (name, name) else None
        bridge = self._bridges.get(nic.bridge)
        if bridge is None or (bridge.ovs_name, bridge.testbed_host) != (nic.source, guest.testbed_host):
            return None
        return self._home[bridge.name]

    def _in_subnet(self, segment: str, nic: Interface, at: _Path) -> _Complaints:
        if nic.prefix_length > ipaddress.IPV4LENGTH:
            length = str(nic.prefix_length)
            yield _wrong((*at, "prefix_length"), f"{length} is longer than an IPv4 address", "a shorter one")
            return
        own = ipaddress.IPv4Network((nic.ip, nic.prefix_length), strict=False)
        subnet = self._subnets.setdefault(segment, own)
        if own != subnet or own.prefixlen < LARGEST:
            yield _wrong((*at, "ip"), f"{nic.ip}/{nic.prefix_length} is outside its network", str(subnet))
            return
        kept = {subnet.network_address, subnet.broadcast_address}
        if segment == self._external:
            kept.add(subnet[1])
        if ipaddress.IPv4Address(nic.ip) in kept:
            yield _wrong(
                (*at, "ip"), f"{nic.ip} is not a valid address of a guest in {subnet}", "another one there"
            )


def _subnet(text: str) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError:
        return None
