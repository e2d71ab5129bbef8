"""``kvm-compose graph``: draws the topology or the tasks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._project import open_project
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.build.project import Project
    from kvmcompose.drawing.graph import Graph

NAME = "graph"
HELP = "draw the topology or the tasks, as dot, mermaid, json or svg"
EXAMPLE = """\
examples:
  kvm-compose graph --format mermaid
  kvm-compose graph --format svg > testbed.svg     (needs graphviz)
  kvm-compose graph --of tasks | dot -Tpng > tasks.png
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--of", choices=("topology", "tasks"), default="topology", help="what to draw (default: topology)"
    )
    parser.add_argument(
        "--format", choices=("dot", "mermaid", "json", "svg"), default="dot", help="the format (default: dot)"
    )
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="same as --format json"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the graph."""
    from kvmcompose.effects import process
    from kvmcompose.drawing.graph import to_dot, to_mermaid

    project = open_project(arguments, console)
    graph = _topology(project) if arguments.of == "topology" else _tasks(project)
    match arguments.format:
        case "json":
            console.json(graph)
        case "mermaid":
            console.verbatim(to_mermaid(graph))
        case "svg":
            console.raw(process.run(["dot", "-Tsvg"], stdin=to_dot(graph).encode()).stdout)
        case _:
            console.verbatim(to_dot(graph))
    return 0


def _topology(project: Project) -> Graph:
    from kvmcompose.networks import drawing
    from kvmcompose.drawing.graph import topology

    placed = project.compiled.placed
    return topology(placed.logical, placed.placement, drawing(placed))


def _tasks(project: Project) -> Graph:
    """Return a graph of tasks, each with edges to the tasks that depend on it; all depend on the state."""
    from kvmcompose.build.base_images import image_of, image_task
    from kvmcompose.drawing.graph import Edge, Graph, Node

    artefacts = project.compiled.artefacts
    nodes = [Node(artefact.task, "task", artefact.guest or "") for artefact in artefacts]
    edges = []
    images = {}
    for artefact in artefacts:
        image = image_of(artefact)
        if image is not None:
            images[image] = image_task(image)
            edges.append(Edge(images[image], artefact.task))
        edges += [Edge(project.artefacts[path].task, artefact.task) for path in artefact.after]
        if artefact.task != "state" and image is None and not artefact.after:
            edges.append(Edge("state", artefact.task))
    nodes += [Node(name, "task") for name in dict.fromkeys(images.values())]
    return Graph(tuple(nodes), tuple(edges), directed=True)
