"""Boxes do not overlap, and lines go around them."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from random_topologies import topologies

from kvmcompose.drawing.geometry import Box, Layout, Point, layout
from kvmcompose.drawing.graph import Edge, Graph, Node
from kvmcompose.drawing.places import SEGMENTS, arrange


def drawn(graph: Graph) -> Layout:
    return layout(graph, arrange(graph))


def overlap(one: Box, other: Box) -> bool:
    return one.x < other.right and other.x < one.right and one.y < other.bottom and other.y < one.bottom


def crosses(one: Point, other: Point, box: Box) -> bool:
    """Return whether a line that is level or upright goes through a box, not along its side."""
    left, right = sorted((one.x, other.x))
    top, bottom = sorted((one.y, other.y))
    return left < box.right and right > box.x and top < box.bottom and bottom > box.y


@given(topologies())
def test_boxes_have_room_and_lines_go_around_them(graph: Graph) -> None:
    found = drawn(graph)
    boxes = [*found.cards.values(), *found.fabric.values(), *(bar.box for bar in found.bars)]
    for one, other in [*combinations(boxes, 2), *combinations(found.hosts.values(), 2)]:
        assert not overlap(one, other)
    hosts = {node.name: node.group for node in graph.nodes}
    inside = [(box, hosts[name]) for name, box in found.cards.items()]
    for box, host in [*inside, *((bar.box, bar.host) for bar in found.bars)]:
        area = found.hosts[host]
        assert area.x < box.x < box.right < area.right
        assert area.y < box.y < box.bottom <= area.bottom
    for line in found.lines:
        for one, other in pairwise(line.points):
            assert one.x == other.x or one.y == other.y
            assert not [box for box in boxes if crosses(one, other, box)], line
            for point in (one, other):
                assert 0 <= point.x <= found.width
                assert 0 <= point.y <= found.height


@given(topologies())
def test_every_connection_is_a_line(graph: Graph) -> None:
    found = drawn(graph)
    kinds = {node.name: node.kind for node in graph.nodes}
    lines = {(line.source, line.target) for line in found.lines}
    wanted = {(edge.source, edge.target) for edge in graph.edges}
    assert wanted <= lines
    # and switches have a line to each of their parts
    parts = [bar for bar in found.bars if kinds[bar.segment] == "switch"]
    assert all((bar.segment, bar.segment) in lines for bar in parts)
    assert all(kinds[bar.segment] in SEGMENTS for bar in found.bars)


@given(topologies())
def test_no_line_crosses_the_label_of_a_tunnel(graph: Graph) -> None:
    found = drawn(graph)
    hosts = {node.name: node.group for node in graph.nodes}
    kinds = {node.name: node.kind for node in graph.nodes}
    tunnels = [
        edge
        for edge in graph.edges
        if kinds[edge.source] == kinds[edge.target] == "bridge" and hosts[edge.source] != hosts[edge.target]
    ]
    labels = [label.box for label in found.labels if label.text == "tunnel"]
    assert len(labels) == len(tunnels)
    boxes = [*found.cards.values(), *found.fabric.values(), *(bar.box for bar in found.bars)]
    for label in labels:
        assert not [box for box in (*boxes, *found.hosts.values()) if overlap(label, box)]
        for line in found.lines:
            for one, other in pairwise(line.points):
                assert not crosses(one, other, label), line
    for one_label, other_label in combinations(labels, 2):
        assert not overlap(one_label, other_label)


def test_tunnels_share_a_level_and_hosts_stay_where_they_are_for_a_few() -> None:
    bridges = tuple(Node(f"br{number}", "bridge", f"h{number}") for number in range(4))
    hosts = tuple(node.group for node in bridges)
    row = tuple(Edge(f"br{number}", f"br{number + 1}", f"tunnel, key {number}") for number in range(3))
    found = drawn(Graph(bridges, row, False, hosts))
    assert len({label.box.y for label in found.labels}) == 2  # the next one begins before this one ends
    more = (*row, Edge("br0", "br2", "tunnel, key 9"))
    crowded = drawn(Graph(bridges, more, False, hosts))
    assert len({label.box.y for label in crowded.labels}) == 3
    assert crowded.hosts == found.hosts


def test_a_host_without_anything_is_there() -> None:
    found = drawn(Graph((), (), False, ("idle",)))
    assert found.hosts["idle"].height > 0


def test_a_picture_of_nothing_has_a_size() -> None:
    found = drawn(Graph((), (), False))
    assert (found.width, found.height) == (24, 24)


def test_a_second_interface_on_the_same_bridge_is_a_line_of_its_own() -> None:
    nodes = (Node("br0", "bridge", "one"), Node("a", "guest", "one"))
    edges = (Edge("a", "br0", "10.0.0.1"), Edge("a", "br0", "10.0.0.2"))
    found = drawn(Graph(nodes, edges, False, ("one",)))
    assert [line.label for line in found.lines] == ["10.0.0.1", "10.0.0.2"]
