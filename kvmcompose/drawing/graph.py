"""Graphs as text: Graphviz's DOT language and Mermaid flowcharts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from kvmcompose.core.artefact import shared_disk_name
from kvmcompose.core.deployable import DeployableGuest, DomainGuest
from kvmcompose.core.names import first_few
from kvmcompose.core.state import State


class Node(msgspec.Struct, frozen=True):
    """A node; ``group`` names the box it is drawn in, ``details`` are the lines below its name."""

    name: str
    kind: str
    group: str = ""
    details: tuple[str, ...] = ()


class Edge(msgspec.Struct, frozen=True):
    """An edge with a word on it."""

    source: str
    target: str
    label: str = ""


class Graph(msgspec.Struct, frozen=True):
    """Nodes and edges in a stable order. Edges of a ``directed`` graph point from what is needed.

    ``hosts`` are all hosts of a topology, those without nodes, too.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    directed: bool
    hosts: tuple[str, ...] = ()


class Drawing(msgspec.Struct, frozen=True):
    """The nodes and edges of a network, without guests. ``segments`` are the names of the segments' nodes."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    segments: Mapping[str, str]


_NONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})
#: How the kinds of guests are drawn that are no virtual machines.
_GUESTS = {"docker": "container"}
_DOT_SHAPES = {
    "container": "component",
    "bridge": "box",
    "guest": "ellipse",
    "golden image": "ellipse",
    "network": "hexagon",
    "router": "octagon",
    "host interface": "cds",
}
_MERMAID_SHAPES = {
    "container": ("[/", "/]"),
    "bridge": ("[", "]"),
    "guest": ("(", ")"),
    "golden image": ("([", "])"),
    "network": ("{{", "}}"),
    "router": ("[[", "]]"),
    "host interface": (">", "]"),
}


def topology(state: State, drawing: Drawing, details: Mapping[str, tuple[str, ...]] = _NONE) -> Graph:
    """Return the guests on the network, with their addresses. ``drawing`` is the network of the state.

    ``details`` are what else is said of guests, by name.

    Interfaces on what the network does not have, in the record of what is up, are left out.
    """
    nodes, edges = [*drawing.nodes], [*drawing.edges]
    for guest in state.testbed_guests.values():
        kind = "golden image" if guest.is_golden_image else _GUESTS.get(guest.kind, "guest")
        nodes.append(Node(guest.name, kind, guest.testbed_host, details.get(guest.name, ())))
        edges += [
            Edge(guest.name, drawing.segments[nic.bridge], ", ".join(nic.addresses))
            for nic in guest.interfaces
            if nic.bridge in drawing.segments and not guest.is_golden_image
        ]
        golden = guest.extra_info.reference_image
        if golden is not None:
            edges.append(Edge(golden, guest.name, "clone"))
    return Graph(tuple(nodes), tuple(edges), False, tuple(state.testbed_hosts))


def sharing(guests: Mapping[str, DeployableGuest | None]) -> dict[str, tuple[str, ...]]:
    """Return a line for each disk that a guest shares with others: whom, by guest."""
    owners: dict[str, list[str]] = {}
    for name, run in guests.items():
        for path in run.shared_disks if isinstance(run, DomainGuest) else ():
            owners.setdefault(path, []).append(name)
    lines: dict[str, tuple[str, ...]] = {}
    for path, names in owners.items():
        for name in names:
            others = [each for each in names if each != name]
            text = f"shared with {first_few(others)}" if others else "which no other guest has yet"
            lines[name] = (*lines.get(name, ()), f"disk {shared_disk_name(path)}, {text}")
    return lines


def distinct(names: Iterable[tuple[str, str]], guests: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return the name of a node for each kind and name: with the kind if a guest or an earlier one has it."""
    taken = set(guests)
    found: dict[tuple[str, str], str] = {}
    for kind, name in names:
        found[kind, name] = f"{name} ({kind})" if name in taken else name
        taken.add(name)
    return found


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
        lines += [f"{indent}{_quote(node.name)} [{_dot_attributes(node)}];" for node in nodes]
        if group:
            lines.append("  }")
    for edge in graph.edges:
        label = f" [label={_quote(edge.label)}]" if edge.label else ""
        lines.append(f"  {_quote(edge.source)} {arrow} {_quote(edge.target)}{label};")
    return "\n".join([*lines, "}"])


def _dot_attributes(node: Node) -> str:
    shape = f"shape={_DOT_SHAPES.get(node.kind, 'box')}"
    if not node.details:
        return shape
    lines = r"\n".join(_quote(line)[1:-1] for line in (node.name, *node.details))
    return f'{shape}, label="{lines}"'


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
            lines.append(f"{indent}{ids[node.name]}{left}{_mermaid_text(node.name, *node.details)}{right}")
        if group:
            lines.append("  end")
    arrow = "-->" if graph.directed else "---"
    for edge in graph.edges:
        label = f"|{_mermaid_text(edge.label)}|" if edge.label else ""
        lines.append(f"  {ids[edge.source]} {arrow}{label} {ids[edge.target]}")
    return "\n".join(lines)


def _mermaid_text(*lines: str) -> str:
    return '"' + "<br/>".join(line.replace("&", "#amp;").replace('"', "#quot;") for line in lines) + '"'
