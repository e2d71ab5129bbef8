"""Draw a network of Open vSwitch bridges, from the state."""

from __future__ import annotations

from typing import Any

import msgspec

from kvmcompose.core.state import State
from kvmcompose.drawing.graph import Drawing, Edge, Node, distinct
from kvmcompose.networks._specialise import BridgeState


def drawing(state: State) -> Drawing:
    """Return the bridges with their connections, and the way out."""
    network: dict[str, Any] = state.network
    bridges = msgspec.convert(network["bridges"], tuple[BridgeState, ...])
    shown = distinct((("bridge", bridge.name) for bridge in bridges), state.testbed_guests)
    names = {bridge.name: shown["bridge", bridge.name] for bridge in bridges}
    hosts = {bridge.name: bridge.testbed_host for bridge in bridges}
    nodes = [Node(names[name], "bridge", host) for name, host in hosts.items()]
    connections = network["physical_bridge_connections"]
    edges = [
        Edge(names[source], names[target], _label(connections.get(f"{source}:{target}", {})))
        for source, target in network["logical_bridge_connections"]
    ]
    external = state.testbed_host_shared_config.external_bridge
    if external is not None:
        nodes.append(Node("NAT", "network", state.main_host.name))
        edges.append(Edge("NAT", names[external]))
    return Drawing(tuple(nodes), tuple(edges), names)


def _label(connection: dict[str, Any]) -> str:
    """Return what a connection is, if it is no pair of interfaces of one host: a tunnel, with its key."""
    tunnel = connection.get("tunnel")
    return "" if tunnel is None else f"tunnel, key {tunnel['key']}"
