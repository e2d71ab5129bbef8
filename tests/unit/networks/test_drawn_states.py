"""The picture of a network is made from the state alone."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from kvmcompose import networks
from kvmcompose.core.state import State, decode_state
from kvmcompose.drawing.graph import Graph, topology
from kvmcompose.networks import drawing

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*/expected/state.json"))


def state_of(name: str) -> State:
    return decode_state(next(path for path in GOLDEN if path.parts[-3] == name).read_bytes())


def drawn(state: State) -> Graph:
    return topology(state, drawing(state))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parts[-3])
def test_everything_in_a_state_is_in_its_graph(path: Path) -> None:
    state = decode_state(path.read_bytes())
    graph = drawn(state)
    nodes = {node.name: node for node in graph.nodes}
    assert len(nodes) == len(graph.nodes)
    for name, guest in state.testbed_guests.items():
        assert nodes[name].group == guest.testbed_host
        connected = [edge for edge in graph.edges if edge.source == name and edge.label != "clone"]
        assert len(connected) == (0 if guest.is_golden_image else len(guest.interfaces))
    assert {end for edge in graph.edges for end in (edge.source, edge.target)} <= nodes.keys()
    assert graph.hosts == tuple(state.testbed_hosts)


def test_a_router_is_on_its_gateway_chassis() -> None:
    nodes = {node.name: node for node in drawn(state_of("ovn-three-hosts")).nodes}
    assert (nodes["lr0"].group, nodes["lr1"].group) == ("testbed-host-two", "")
    assert nodes["probe"].group == "testbed-host-one"


def test_a_dialect_without_a_picture_shows_what_guests_are_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(networks, "dialect", lambda _name: types.SimpleNamespace())
    graph = drawn(state_of("base-three-hosts"))
    bridges = {node.name: node.group for node in graph.nodes if node.kind == "bridge"}
    guests = state_of("base-three-hosts").testbed_guests.values()
    assert bridges == {nic.bridge: guest.testbed_host for guest in guests for nic in guest.interfaces}
