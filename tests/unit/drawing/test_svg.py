"""Pictures are well-formed, say everything in words, and hold what a hostile name has in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from random_topologies import topologies

from kvmcompose.drawing.geometry import layout
from kvmcompose.drawing.graph import Edge, Graph, Node
from kvmcompose.drawing.places import arrange
from kvmcompose.drawing.svg import NodeMark, to_html, to_svg

_SVG = "{http://www.w3.org/2000/svg}"


def picture(graph: Graph, marks: dict[str, NodeMark] | None = None) -> ET.Element:
    return ET.fromstring(to_svg(graph, layout(graph, arrange(graph)), "lab", marks))  # noqa: S314 (it is ours)


def words(found: ET.Element, element: str = "text") -> list[str]:
    return [each.text or "" for each in found.iter(f"{_SVG}{element}")]


@given(topologies())
def test_every_node_has_a_title(graph: Graph) -> None:
    titles = "\n".join(words(picture(graph), "title"))
    # a bridge without anything has no place where its host has none; everything else is named
    assert all(node.name in titles for node in graph.nodes)
    assert all(edge.label in titles for edge in graph.edges if edge.source.startswith("guest-"))


def test_hostile_text_stays_text() -> None:
    evil = '</title><script>alert(1)</script>"&\x1b[2J\x00\ufffe'
    graph = Graph(
        (Node("br0", "bridge", "h"), Node(evil, "guest", "h", (evil,))), (Edge(evil, "br0", evil),), False
    )
    found = picture(graph, {evil: NodeMark("good", evil)})
    assert not list(found.iter(f"{_SVG}script"))
    assert "\x1b" not in ET.tostring(found, encoding="unicode")
    assert "<script>" not in to_html("", evil)


def test_long_names_are_shortened_in_their_box_and_whole_in_the_title() -> None:
    name = "a-name-of-a-guest-that-is-quite-long"
    found = picture(Graph((Node(name, "guest", "h"),), (), False))
    assert name not in words(found)
    assert [each for each in words(found) if each.endswith("…") and name.startswith(each[:-1])]
    assert f"{name} (virtual machine on h)" in words(found, "title")


def test_marks_are_dots_with_words_in_the_legend() -> None:
    graph = Graph((Node("a", "guest", "h"), Node("b", "container", "h")), (), False)
    marks = {
        "a": NodeMark("good", "running"),
        "b": NodeMark("bad", "unhealthy"),
        "gone": NodeMark("off", "stopped"),
    }
    found = picture(graph, marks)
    dots = [each.get("class") for each in found.iter(f"{_SVG}circle")]
    assert (dots.count("good"), dots.count("bad")) == (2, 2)  # at the guest, and in the legend
    assert {"virtual machine", "container", "running", "unhealthy"} <= set(words(found))
    assert "a (virtual machine on h)\nrunning" in words(found, "title")


def test_more_lines_than_fit_are_counted() -> None:
    graph = Graph((Node("lr0", "router", details=("one", "two", "three", "four")),), (), False)
    found = words(picture(graph))
    assert "one" in found
    assert "and 3 more" in found
    assert "two" not in found
