"""Large testbeds fold into stacks, which open and close without moving anything else."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.drawing.fold import FOLDS_ABOVE, MOST_DRAWN, STACK_ABOVE, STACK_COLUMNS, Folded, fold
from kvmcompose.drawing.geometry import Box, layout
from kvmcompose.drawing.graph import Edge, Graph, Node
from kvmcompose.drawing.places import Grid, arrange
from kvmcompose.drawing.svg import page_style, to_page_svg

_SVG = "{http://www.w3.org/2000/svg}"


def graph_of(clients: int, *others: str, hosts: int = 1) -> tuple[Graph, dict[str, str]]:
    """Return a testbed with clones of one machine, spread over hosts, and other guests on the first."""
    names = [f"h{number}" for number in range(hosts)]
    nodes = [Node(f"br-{host}", "bridge", host) for host in names]
    edges = []
    machines = {name: name for name in others}
    for number in range(clients):
        name, host = f"client-{number}", names[number % hosts]
        machines[name] = "client"
        nodes.append(Node(name, "guest", host))
        edges.append(Edge(name, f"br-{host}", f"10.0.0.{number}"))
    nodes += [Node(name, "guest", names[0]) for name in others]
    edges += [Edge(name, f"br-{names[0]}") for name in others]
    return Graph(tuple(nodes), tuple(edges), False, tuple(names)), machines


def boxes(folded: Folded, places: Grid) -> dict[str, Box]:
    return dict(layout(folded.graph, places).cards)


def test_a_small_testbed_does_not_fold() -> None:
    graph, machines = graph_of(FOLDS_ABOVE)
    assert fold(graph, machines) == Folded(graph)


def test_clones_of_a_host_are_one_stack_and_single_guests_stay() -> None:
    graph, machines = graph_of(200, "server", "router", hosts=2)
    folded = fold(graph, machines)
    assert [(each.title, len(each.guests), each.is_open) for each in folded.stacks] == [
        ("client", 100, False),
        ("client", 100, False),
    ]
    names = [each.name for each in folded.stacks]
    assert [node.name for node in folded.graph.nodes] == ["br-h0", "br-h1", *names, "server", "router"]
    assert {(edge.source, edge.target) for edge in folded.graph.edges} == {
        (names[0], "br-h0"), (names[1], "br-h1"), ("server", "br-h0"), ("router", "br-h0"),
    }  # fmt: skip


def test_many_guests_of_one_segment_are_a_stack_whatever_their_names() -> None:
    words = [f"guest{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(FOLDS_ABOVE + 1)]
    folded = fold(*graph_of(0, *words))
    assert [(each.title, each.guests) for each in folded.stacks] == [("guests", tuple(words))]
    few = [f"single{number}" for number in range(STACK_ABOVE)]
    folded = fold(*graph_of(100, *few))
    assert [len(each.guests) for each in folded.stacks] == [100]


def test_an_open_stack_shows_its_guests_and_moves_nobody() -> None:
    graph, machines = graph_of(120, "server", "router", hosts=2)
    closed = fold(graph, machines)
    places = arrange(closed.graph, None, closed.widths)
    assert [column.width for column in places.columns] == [STACK_COLUMNS, STACK_COLUMNS]
    name = closed.stacks[0].name
    opened = fold(graph, machines, [name, "none"])
    assert [stack.is_open for stack in opened.stacks] == [True, False]
    before, after = boxes(closed, places), boxes(opened, arrange(opened.graph, places, opened.widths))
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == set(closed.stacks[0].guests)


def test_no_more_guests_are_drawn_than_a_browser_takes() -> None:
    graph, machines = graph_of(2 * MOST_DRAWN, hosts=2)
    names = [stack.name for stack in fold(graph, machines).stacks]
    opened = fold(graph, machines, names)
    assert [stack.is_open for stack in opened.stacks] == [True, False]
    graph, machines = graph_of(MOST_DRAWN + 1)
    names = [stack.name for stack in fold(graph, machines).stacks]
    assert not fold(graph, machines, names).stacks[0].is_open


def test_a_stack_never_has_the_name_of_a_guest() -> None:
    graph, machines = graph_of(100)
    name = fold(graph, machines).stacks[0].name
    graph = Graph((*graph.nodes, Node(name, "guest", "h0")), graph.edges, False, graph.hosts)
    folded = fold(graph, {**machines, name: name})
    assert folded.stacks[0].name == f"{name}'"


@given(st.text(max_size=40), st.text(min_size=1, max_size=40))
def test_the_page_finds_elements_whatever_their_names(host: str, evil: str) -> None:
    nodes = (Node("br0", "bridge", host), Node(f"{evil}\"'><b onload=1>&", "guest", host, (evil,)))
    graph = Graph(nodes, (Edge(nodes[1].name, "br0", evil),), False, (host,))
    made = to_page_svg(graph, layout(graph, arrange(graph)), evil)
    found = ET.fromstring(made)  # noqa: S314 (it is ours)
    assert {each.tag.removeprefix(_SVG) for each in found.iter()} <= {
        "svg", "g", "rect", "path", "text", "circle",
    }  # fmt: skip
    allowed = {
        "class", "role", "tabindex", "viewBox", "width", "height", "x", "y", "rx", "d", "fill", "stroke",
        "cx", "cy", "r", "transform", "text-anchor", "aria-label", "data-node", "data-host", "data-source",
        "data-target", "data-x", "data-y",
    }  # fmt: skip
    assert {name for each in found.iter() for name in each.attrib} <= allowed
    assert len([each for each in found.iter() if "data-node" in each.attrib]) == 2
    assert all(each.get("aria-label") is not None for each in found.iter() if each.get("tabindex"))


def test_the_page_has_the_style_of_the_pictures() -> None:
    page = Path(__file__).parents[3] / "web/src/views/topology/picture.css"
    wanted = page_style()
    assert page.read_text().endswith(wanted), f"write this to {page}:\n{wanted}"


def test_stacks_say_how_many_they_are_and_whether_they_are_open() -> None:
    graph, machines = graph_of(100, "server")
    folded = fold(graph, machines)
    made = to_page_svg(
        folded.graph, layout(folded.graph, arrange(folded.graph, None, folded.widths)), "lab", folded.stacks
    )
    found = ET.fromstring(made)  # noqa: S314 (it is ours)
    cards = {each.get("data-node"): each for each in found.iter() if "data-node" in each.attrib}
    stack = cards[folded.stacks[0].name]
    assert stack.get("aria-expanded") == "false"
    assert stack.get("aria-label") == "client \N{MULTIPLICATION SIGN} 100 (guests on h0)"
    assert "client \N{MULTIPLICATION SIGN} 100" in [each.text for each in stack.iter(f"{_SVG}text")]
    assert "aria-expanded" not in cards["server"].attrib
