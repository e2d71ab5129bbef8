"""Who was there stays where it is; who is new is placed."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from random_topologies import topologies

from kvmcompose.drawing.geometry import layout
from kvmcompose.drawing.graph import Edge, Graph, Node
from kvmcompose.drawing.places import Block, Column, Grid, Homes, arrange


def everybody(places: Grid) -> list[str]:
    return [name for column in places.columns for block in column.blocks for name in block.guests if name] + [
        name for row in places.fabric for name in row if name
    ]


def corners(graph: Graph, places: Grid) -> dict[tuple[str, str], tuple[float, float]]:
    """Return where each guest is in its host's area, by its name and the segment that it is at home on."""
    found, homes = layout(graph, places), Homes(graph)
    return {
        (name, homes.home(name)): (box.x - area.x, box.y - area.y)
        for name, box in found.cards.items()
        for area in [found.hosts[homes.nodes[name].group]]
    }


@given(st.lists(topologies(), min_size=1, max_size=6))
def test_edits_move_nobody(graphs: list[Graph]) -> None:
    places = None
    before: dict[tuple[str, str, str], tuple[float, float]] = {}
    for graph in graphs:
        places = arrange(graph, places)
        outside = {name for row in Homes(graph).fabric for name in row}
        assert sorted(everybody(places)) == sorted([*Homes(graph).guests, *outside])
        hosts = {node.name: node.group for node in graph.nodes}
        now = {(name, home, hosts[name]): at for (name, home), at in corners(graph, places).items()}
        assert {key: now[key] for key in now.keys() & before.keys()} == {
            key: before[key] for key in now.keys() & before.keys()
        }
        assert len({(host, at) for (_, _, host), at in now.items()}) == len(now)  # one place each
        before = now


@given(topologies())
def test_the_same_graph_has_the_same_places(graph: Graph) -> None:
    places = arrange(graph)
    assert arrange(graph) == places
    assert arrange(graph, places) == places
    assert msgspec.json.decode(msgspec.json.encode(places), type=Grid) == places


def graph_of(*guests: str) -> Graph:
    nodes = (Node("br0", "bridge", "one"), *(Node(name, "guest", "one") for name in guests))
    return Graph(nodes, tuple(Edge(name, "br0") for name in guests), False, ("one",))


def test_a_new_guest_gets_the_place_of_one_that_is_gone() -> None:
    before = arrange(graph_of("a", "b", "c"))
    assert before.columns == (Column("one", 3, (Block("br0", ("a", "b", "c")),)),)
    after = arrange(graph_of("a", "c", "d", "e"), before)
    assert after.columns == (Column("one", 3, (Block("br0", ("a", "d", "c", "e")),)),)


def test_a_picture_is_large_in_a_window() -> None:
    def width(guests: int, hosts: int) -> int:
        names = [f"h{number}" for number in range(hosts)]
        nodes = tuple(Node(f"g{n}", "guest", names[n % hosts]) for n in range(guests * hosts))
        return arrange(Graph(nodes, (), False, tuple(names))).columns[0].width

    assert [width(1, 1), width(4, 1), width(14, 1), width(14, 3), width(14, 20)] == [1, 4, 5, 3, 3]


def lab_of(*hosts: str) -> Graph:
    """Return hosts with a bridge and two guests each."""
    bridges = tuple(Node(f"br-{host}", "bridge", host) for host in hosts)
    guests = tuple(Node(f"{host}-{number}", "guest", host) for host in hosts for number in (1, 2))
    edges = tuple(Edge(guest.name, f"br-{guest.group}") for guest in guests)
    return Graph((*bridges, *guests), edges, False, hosts)


def rows_of(places: Grid) -> list[list[str]]:
    rows = sorted({column.row for column in places.columns})
    return [[column.host for column in places.columns if column.row == row] for row in rows]


def test_many_hosts_are_in_several_rows() -> None:
    names = [f"h{number:02}" for number in range(20)]
    places = arrange(lab_of(*names))
    assert [len(row) for row in rows_of(places)] == [7, 7, 6]
    assert [host for row in rows_of(places) for host in row] == names
    found = layout(lab_of(*names), places)
    assert 1 < found.width / found.height < 4
    assert len(rows_of(arrange(lab_of(*names[:5])))) == 1


def test_a_new_host_goes_where_there_is_room_and_moves_nobody_to_another_row() -> None:
    names = [f"h{number:02}" for number in range(20)]
    before = arrange(lab_of(*names))
    one_row = arrange(lab_of(*names[:3]))
    assert rows_of(arrange(lab_of(*names[:12]), one_row)) == [names[:5], names[5:10], names[10:12]]
    without = [name for name in names if name != "h03"]
    after = arrange(lab_of(*without, "new"), arrange(lab_of(*without), before))
    assert rows_of(after) == [[*names[:3], *names[4:7], "new"], names[7:14], names[14:]]


def test_a_full_block_goes_on_below_the_others() -> None:
    def graph(*more: str) -> Graph:
        base = graph_of("a", *more)
        nodes = (*base.nodes, Node("br1", "bridge", "one"), Node("z", "guest", "one"))
        return Graph(nodes, (*base.edges, Edge("z", "br1")), False, ("one",))

    after = arrange(graph("b", "c"), arrange(graph()))
    assert [(block.segment, block.guests) for block in after.columns[0].blocks] == [
        ("br0", ("a", "b")),
        ("br1", ("z", "")),
        ("br0", ("c",)),
    ]
    # and is given up when it is empty
    assert arrange(graph(), after) == arrange(graph())
