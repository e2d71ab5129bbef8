"""``kvm-compose placement``: which guest and bridge goes where, and why."""

from __future__ import annotations

import argparse

from kvmcompose.cli._project import open_project
from kvmcompose.monitor.console import Console

NAME = "placement"
HELP = "show which host every bridge and guest is placed on, and why"
EXAMPLE = """\
examples:
  kvm-compose placement
  kvm-compose placement --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Show the placement."""
    project = open_project(arguments, console)
    placed = project.compiled.placed
    placement = placed.placement
    tunnels = [
        [link.source, link.target]
        for link in placed.logical.topology.links
        if placement.segments[link.source] != placement.segments[link.target]
    ]
    kinds = (("bridge", placement.segments), ("guest", placement.guests))
    if arguments.json:
        rows = {
            kind: {name: {"host": host, "reason": placement.reasons[name]} for name, host in hosts.items()}
            for kind, hosts in kinds
        }
        console.json(
            {"strategy": placed.logical.strategy, "bridges": rows["bridge"], "guests": rows["guest"],
             "tunnels": tunnels}
        )  # fmt: skip
        return 0
    console.table(
        [
            [kind, name, host, placement.reasons[name]]
            for kind, hosts in kinds
            for name, host in hosts.items()
        ],
        ["KIND", "NAME", "HOST", "REASON"],
    )
    links = len(placed.logical.topology.links)
    used = len(set(placement.segments.values()) | set(placement.guests.values()))
    console.say(
        f"{placed.logical.strategy}: {used} of {len(placed.logical.hosts)} hosts used, "
        f"{len(tunnels)} of {links} bridge connections need a tunnel"
    )
    return 0
