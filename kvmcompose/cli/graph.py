"""``kvm-compose graph``: draws the topology or the tasks."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from kvmcompose.cli._project import open_project
from kvmcompose.cli._server import add_server_options, usage_error
from kvmcompose.core.errors import RefusedError
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmcompose.build.project import Project
    from kvmcompose.drawing.graph import Graph
    from kvmcompose.drawing.svg import NodeMark

NAME = "graph"
HELP = "draw the topology or the tasks, as svg, png, html, dot, mermaid or json"
EXAMPLE = """\
examples:
  kvm-compose graph --format svg > testbed.svg
  kvm-compose graph --format png --state > now.png      with the states of guests
  kvm-compose graph --format html --plan > plan.html    with what up would do
  kvm-compose graph --format mermaid
  kvm-compose graph --of tasks | dot -Tpng > tasks.png

Hosts are areas, bridges and logical switches are bars in them, with the guests on them
below. The svg follows the reader's choice of light or dark; png is drawn in light.
"""
#: Pixels of a png for one of the picture: sharp on a slide.
_ZOOM = 2
#: Formats that are drawn, not written.
_PICTURES = ("svg", "png", "html")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--of", choices=("topology", "tasks"), default="topology", help="what to draw (default: topology)"
    )
    parser.add_argument(
        "--format",
        choices=("dot", "mermaid", "json", *_PICTURES),
        default="dot",
        help="the format (default: dot); an svg of tasks requires Graphviz",
    )
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="same as --format json"
    )
    marks = parser.add_mutually_exclusive_group()
    marks.add_argument("--state", action="store_true", help="show in a picture how guests are now")
    marks.add_argument("--plan", action="store_true", help="show in a picture what up would do with guests")
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the graph."""
    from kvmcompose.drawing.graph import to_dot, to_mermaid
    from kvmcompose.effects import process

    drawn = arguments.of == "topology" and arguments.format in _PICTURES
    if (arguments.state or arguments.plan) and not drawn:
        raise usage_error("--state and --plan require a picture of the topology: --format svg, png or html")
    if arguments.of == "tasks" and arguments.format in ("png", "html"):
        raise usage_error(
            f"--of tasks has no {arguments.format}", hint="kvm-compose graph --of tasks | dot -Tpng"
        )
    if arguments.format == "png" and sys.stdout.isatty():
        raise usage_error("a terminal cannot show a png", hint="write it to a file: > testbed.png")
    project = open_project(arguments, console)
    graph = _topology(project) if arguments.of == "topology" else _tasks(project)
    match arguments.format:
        case "json":
            console.json(graph)
        case "mermaid":
            console.verbatim(to_mermaid(graph))
        case "dot":
            console.verbatim(to_dot(graph))
        case _ if drawn:
            console.raw(_picture(graph, project, arguments))
        case _:
            console.raw(process.run(["dot", "-Tsvg"], stdin=to_dot(graph).encode()).stdout)
    return 0


def _picture(graph: Graph, project: Project, arguments: argparse.Namespace) -> bytes:
    from kvmcompose.cli import _marks
    from kvmcompose.drawing.geometry import layout
    from kvmcompose.drawing.places import arrange
    from kvmcompose.drawing.svg import to_html, to_svg

    marks: Mapping[str, NodeMark] = {}
    if arguments.state:
        marks = _marks.of_status(arguments)
    elif arguments.plan:
        marks = _marks.of_plan(arguments, project)
    title = project.compiled.state.project_name
    svg = to_svg(graph, layout(graph, arrange(graph)), title, marks)
    match arguments.format:
        case "png":
            return _png(svg)
        case "html":
            return to_html(svg, title).encode()
        case _:
            return svg.encode()


def _png(svg: str) -> bytes:
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise RefusedError(
            "graph --format png requires the Python package resvg-py", hint="pip install resvg-py"
        ) from None
    return bytes(svg_to_bytes(svg_string=svg, zoom=_ZOOM, sans_serif_family="DejaVu Sans"))


def _topology(project: Project) -> Graph:
    from kvmcompose.core.state import decode_state, encode_state
    from kvmcompose.drawing.graph import sharing, topology
    from kvmcompose.guests import guest_kind
    from kvmcompose.networks import drawing

    # as read back: dialects draw from that, for a server that has no more
    state = decode_state(encode_state(project.compiled.state))
    guests = state.testbed_guests.items()
    runs = {name: guest_kind(guest.kind).deployable(guest, state.shared) for name, guest in guests}
    return topology(state, drawing(state), sharing(runs))


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
