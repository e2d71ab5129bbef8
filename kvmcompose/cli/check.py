"""``kvm-compose check``: proves what ``expect`` says, before anything boots."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli._project import open_project
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.core.checked import CheckDocument, CheckedTraffic
    from kvmcompose.core.expectation import Traffic

NAME = "check"
HELP = "prove which guests reach which: the lines of expect, or every pair of guests"
EXAMPLE = """\
examples:
  kvm-compose check
  kvm-compose check --matrix                      which guests can ping which
  kvm-compose check --matrix --tcp 443 --verbose  and why
  kvm-compose check --junit report.xml
  kvm-compose check --format svg > reach.svg      (needs graphviz)

Nothing is built or started, and root is not needed. Networks of OVN are loaded
into a throw-away OVN on this machine (sudo apt-get install ovn-central).
The exit status is 1 if a line does not hold.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--matrix", action="store_true", help="also show every pair of guests")
    port = parser.add_mutually_exclusive_group()
    for protocol in ("tcp", "udp"):
        port.add_argument(
            f"--{protocol}",
            type=_port,
            metavar="PORT",
            help=f"every pair of guests by this {protocol.upper()} port (default: by ping)",
        )
    parser.add_argument(
        "--format",
        choices=("text", "dot", "mermaid", "json", "svg"),
        default="text",
        help="the format; dot, mermaid and svg draw every pair of guests (default: text)",
    )
    parser.add_argument(
        "--json", action="store_const", const="json", dest="format", help="same as --format json"
    )
    parser.add_argument("--junit", metavar="FILE", type=Path, help="also write a report in JUnit's XML")


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print what holds."""
    from kvmcompose.cli._output_file import write_output
    from kvmcompose.reachability.check import check
    from kvmcompose.reachability.junit import junit

    is_picture = arguments.format in ("dot", "mermaid", "svg")
    probe = _probe(arguments)
    wants_matrix = arguments.matrix or is_picture or probe.port
    project = open_project(arguments, console)
    found = check(project.compiled, project.testbed, probe if wants_matrix else None)
    if arguments.junit is not None:
        write_output(arguments.junit, junit(found))
    if is_picture:
        _draw(found, arguments.format, console)
    elif arguments.format == "json":
        console.json(found)
    else:
        _print(found, console)
    for line in found.expectations if is_picture else ():
        console.detail(f"{'holds' if line.holds else 'broken'}: {line.text}")
    _summarise(found, console)
    return 0 if found.holds else 1


def _probe(arguments: argparse.Namespace) -> Traffic:
    from kvmcompose.core.expectation import PING, Traffic

    for protocol in ("tcp", "udp"):
        if getattr(arguments, protocol):
            return Traffic(protocol, getattr(arguments, protocol))
    return PING


def _print(found: CheckDocument, console: Console) -> None:
    from kvmcompose.reachability.junit import traffic_text

    for line in found.expectations:
        word = console.paint("holds ", "green") if line.holds else console.paint("broken", "red")
        console.data(f"{word}  {line.text}" + ("" if line.holds else f" ({line.at})"))
        for traffic in line.broken:
            console.data(f"        {traffic_text(traffic)}")
    if found.matrix is None:
        return
    if found.expectations:
        console.data("")
    names = list(dict.fromkeys(traffic.source for traffic in found.matrix))
    cells = {(traffic.source, traffic.target): _cell(traffic) for traffic in found.matrix}
    rows = [[source, *(cells.get((source, target), "-") for target in names)] for source in names]
    console.table(rows, ["FROM \\ TO", *names])
    for traffic in found.matrix:
        console.detail(traffic_text(traffic))


def _cell(traffic: CheckedTraffic) -> str:
    return "yes" if traffic.reaches else "one way" if traffic.arrives else "no"


def _summarise(found: CheckDocument, console: Console) -> None:
    count = len(found.expectations)
    if not count:
        console.say("nothing is expected: the YAML has no 'expect'")
        return
    broken = sum(not line.holds for line in found.expectations)
    lines = "1 expectation" if count == 1 else f"{count} expectations"
    console.say(
        f"{broken} of {lines} broken" if broken else f"{lines} hold" if count > 1 else f"{lines} holds"
    )


def _draw(found: CheckDocument, form: str, console: Console) -> None:
    from kvmcompose.core.expectation import INTERNET
    from kvmcompose.drawing.graph import Edge, Graph, Node, to_dot, to_mermaid
    from kvmcompose.effects import process

    matrix = found.matrix or ()
    names = dict.fromkeys(traffic.source for traffic in matrix)
    graph = Graph(
        tuple(Node(name, "network" if name == INTERNET else "guest") for name in names),
        tuple(
            Edge(traffic.source, traffic.target, "" if traffic.reaches else "one way")
            for traffic in matrix
            if traffic.arrives
        ),
        directed=True,
    )
    if form == "mermaid":
        console.verbatim(to_mermaid(graph))
    elif form == "dot":
        console.verbatim(to_dot(graph))
    else:
        console.raw(process.run(["dot", "-Tsvg"], stdin=to_dot(graph).encode()).stdout)
