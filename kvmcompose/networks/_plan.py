"""Derive the network plan from the state of Open vSwitch bridges, as read back from ``state.json``."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.core.deployable import (
    LibvirtNetwork,
    LinkPort,
    NetworkPlan,
    NicPort,
    SwitchBridge,
    TunnelPort,
    VethPair,
    VethSpec,
)
from kvmcompose.core.model import Link, Segment, Topology
from kvmcompose.core.resource import Ref, Resource
from kvmcompose.core.state import State
from kvmcompose.networks import _management, _specialise
from kvmcompose.networks._addresses import is_derived_subnet
from kvmcompose.networks._connected import connected
from kvmcompose.networks._specialise import (
    BridgeState,
    HostNic,
    OvsConnection,
    TunnelConnection,
)


def served(
    bridges: Iterable[str], connections: Iterable[Sequence[str]], external: str | None
) -> Collection[str]:
    """Return the bridges connected to the external one, by the names that ``specialise`` gave them."""
    return _specialise.served(_topology(bridges, connections, external))


def network_plan(state: State) -> NetworkPlan:
    """See ``Dialect.network_plan``."""
    network: dict[str, Any] = state.network
    bridges = msgspec.convert(network["bridges"], tuple[BridgeState, ...])
    external = state.testbed_host_shared_config.external_bridge
    by_name = {bridge.name: bridge for bridge in bridges}
    main = state.main_host.name
    name = network["libvirt_network_name"]
    connections = network["logical_bridge_connections"]
    # "" is the network of golden images alone
    home = _homes(by_name, connections, external)[external] if external is not None else ""
    subnet = ipaddress.IPv4Network(network["libvirt_network_subnet"])
    management = _management.access(
        state,
        msgspec.convert(network.get("management_ports", ()), tuple[_management.PortState, ...]),
        {bridge.name: (bridge.ovs_name, bridge.testbed_host) for bridge in bridges},
        network["mtu"],
    )
    return NetworkPlan(
        network=LibvirtNetwork(
            host=main,
            name=name,
            bridge=network["libvirt_network_bridge_name"],
            xml=f"artefacts/{state.project_name}-network.xml",
            subnet=str(subnet),
            subnet_is_derived=is_derived_subnet(state.project_name, home, subnet),
        ),
        resources=(
            *_bridges(bridges),
            *_links(network, by_name, external, Ref("libvirt-network", name, main)),
            *_management.resources(management),
        ),
        # golden images are on the libvirt network itself
        reachable=frozenset({name, *served(by_name, connections, external)}),
        mtu=network["mtu"],
        management=management,
    )


def _bridges(bridges: Iterable[BridgeState]) -> Iterator[Resource]:
    for bridge in bridges:
        spec = SwitchBridge(
            name=bridge.ovs_name,
            host=bridge.testbed_host,
            protocol=bridge.protocol,
            controller=bridge.controller,
            segment=bridge.name,
        )
        yield Resource(ref=Ref("ovs-bridge", spec.name, spec.host), spec=spec)


def _links(
    network: dict[str, Any], bridges: Mapping[str, BridgeState], external: str | None, outer: Ref
) -> Iterator[Resource]:
    """The ports of bridges that are no guest's, each after the pair that it is an end of.

    ``outer`` is the libvirt network that the external bridge is connected to.
    """
    veths = [*_veths(network)]
    if external is not None:
        veths.insert(
            0,
            VethPair(
                host=bridges[external].testbed_host,
                left=network["veth_peer_left"],
                left_bridge=bridges[external].ovs_name,
                right=network["veth_peer_right"],
                right_bridge=network["libvirt_network_bridge_name"],
                right_is_linux=True,
            ),
        )
    for pair in veths:
        ref = Ref("veth", pair.left, pair.host)
        after = (outer,) if pair.right_is_linux else ()
        yield Resource(ref=ref, spec=VethSpec(pair, network["mtu"]), after=after)
        of = (external or "") if pair.right_is_linux else ""
        left = LinkPort(host=pair.host, bridge=pair.left_bridge, name=pair.left, external=of)
        yield _port(left, pair.left, ref)
        if not pair.right_is_linux:
            right = LinkPort(host=pair.host, bridge=pair.right_bridge, name=pair.right)
            yield _port(right, pair.right, ref)
    for tunnel in _tunnels(network):
        yield _port(tunnel, tunnel.name)
    for nic in msgspec.convert(network["network_interfaces"], tuple[HostNic, ...]):
        name = bridges[nic.testbed_bridge].ovs_name
        yield _port(NicPort(host=nic.testbed_host, bridge=name, nic=nic.nic_name), nic.nic_name)


def _port(spec: LinkPort | TunnelPort | NicPort, name: str, *after: Ref) -> Resource:
    needs = (Ref("ovs-bridge", spec.bridge, spec.host),)
    return Resource(ref=Ref("ovs-port", name, spec.host), spec=spec, needs=needs, after=after)


def _homes(bridges: Iterable[str], connections: Iterable[Sequence[str]], external: str) -> Mapping[str, str]:
    """The connected network of each bridge, by the name that ``specialise`` gave it."""
    return connected(_topology(bridges, connections, external))


def _topology(bridges: Iterable[str], connections: Iterable[Sequence[str]], external: str | None) -> Topology:
    links = tuple(Link(source, target) for source, target in connections)
    return Topology(tuple(Segment(name) for name in bridges), links, external)


def _veths(network: dict[str, Any]) -> Iterator[VethPair]:
    for connection in network["physical_bridge_connections"].values():
        if "ovs" in connection:
            pair = msgspec.convert(connection["ovs"], OvsConnection)
            yield VethPair(
                host=pair.testbed_host,
                left=pair.source_veth,
                left_bridge=pair.source_br,
                right=pair.target_veth,
                right_bridge=pair.target_br,
            )


def _tunnels(network: dict[str, Any]) -> Iterator[TunnelPort]:
    for connection in network["physical_bridge_connections"].values():
        if "tunnel" in connection:
            tunnel = msgspec.convert(connection["tunnel"], TunnelConnection)
            yield TunnelPort(
                host=tunnel.testbed_host_source,
                bridge=tunnel.source_br,
                name=tunnel.source_port,
                remote_ip=tunnel.source_remote_ip,
                key=tunnel.key,
                remote=tunnel.testbed_host_target,
            )
            yield TunnelPort(
                host=tunnel.testbed_host_target,
                bridge=tunnel.target_br,
                name=tunnel.target_port,
                remote_ip=tunnel.target_remote_ip,
                key=tunnel.key,
                remote=tunnel.testbed_host_source,
            )
