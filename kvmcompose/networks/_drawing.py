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
    edges = [
        Edge(names[source], names[target], "" if hosts[source] == hosts[target] else "tunnel")
        for source, target in network["logical_bridge_connections"]
    ]
    external = state.testbed_host_shared_config.external_bridge
    if external is not None:
        nodes.append(Node("NAT", "network", state.main_host.name))
        edges.append(Edge("NAT", names[external]))
    return Drawing(tuple(nodes), tuple(edges), names)
