"""Graphs as text: Graphviz's DOT language and Mermaid flowcharts."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvmcompose.core.model import LogicalTestbed, Placement


class Node(msgspec.Struct, frozen=True):
    """A node; ``group`` names the box it is drawn in."""

    name: str
    kind: str
    group: str = ""


class Edge(msgspec.Struct, frozen=True):
    """An edge with a word on it."""

    source: str
    target: str
    label: str = ""


class Graph(msgspec.Struct, frozen=True):
    """Nodes and edges in a stable order. Edges of a ``directed`` graph point from what is needed."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    directed: bool


_DOT_SHAPES = {"bridge": "box", "guest": "ellipse", "golden image": "ellipse", "network": "hexagon"}
_MERMAID_SHAPES = {
    "bridge": ("[", "]"),
    "guest": ("(", ")"),
    "golden image": ("([", "])"),
    "network": ("{{", "}}"),
}


def topology(testbed: LogicalTestbed, placement: Placement) -> Graph:
    """Guests on bridges on hosts."""
    nodes = [Node(name, "bridge", host) for name, host in placement.segments.items()]
    edges = [
        Edge(
            link.source,
            link.target,
            "" if placement.segments[link.source] == placement.segments[link.target] else "tunnel",
        )
        for link in testbed.topology.links
    ]
    if testbed.topology.external is not None:
        nodes.append(Node("NAT", "network", testbed.main_host.name))
        edges.append(Edge("NAT", testbed.topology.external))
    for guest in testbed.guests:
        kind = "golden image" if guest.is_golden_image else "guest"
        nodes.append(Node(guest.name, kind, placement.guests[guest.name]))
        edges += [Edge(guest.name, attachment.segment) for attachment in guest.attachments]
        if guest.golden_image is not None:
            edges.append(Edge(guest.golden_image, guest.name, "clone"))
    return Graph(tuple(nodes), tuple(edges), directed=False)


def _groups(graph: Graph) -> Iterable[tuple[str, list[Node]]]:
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        found.setdefault(node.group, []).append(node)
    return found.items()


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's DOT language."""
    arrow = "->" if graph.directed else "--"
    lines = [f"{'digraph' if graph.directed else 'graph'} testbed {{", "  rankdir=LR;"]
    for group, nodes in _groups(graph):
        indent = "  "
        if group:
            lines += [f"  subgraph {_quote(f'cluster_{group}')} {{", f"    label={_quote(group)};"]
            indent = "    "
        lines += [
            f"{indent}{_quote(node.name)} [shape={_DOT_SHAPES.get(node.kind, 'box')}];" for node in nodes
        ]
        if group:
            lines.append("  }")
    for edge in graph.edges:
        label = f" [label={_quote(edge.label)}]" if edge.label else ""
        lines.append(f"  {_quote(edge.source)} {arrow} {_quote(edge.target)}{label};")
    return "\n".join([*lines, "}"])


def to_mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart."""
    ids = {node.name: f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for number, (group, nodes) in enumerate(_groups(graph)):
        indent = "  "
        if group:
            lines.append(f"  subgraph g{number}[{_mermaid_text(group)}]")
            indent = "    "
        for node in nodes:
            left, right = _MERMAID_SHAPES.get(node.kind, ("[", "]"))
            lines.append(f"{indent}{ids[node.name]}{left}{_mermaid_text(node.name)}{right}")
        if group:
            lines.append("  end")
    arrow = "-->" if graph.directed else "---"
    for edge in graph.edges:
        label = f"|{_mermaid_text(edge.label)}|" if edge.label else ""
        lines.append(f"  {ids[edge.source]} {arrow}{label} {ids[edge.target]}")
    return "\n".join(lines)


def _mermaid_text(text: str) -> str:
    return '"' + text.replace("&", "#amp;").replace('"', "#quot;") + '"'
