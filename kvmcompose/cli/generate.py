"""``kvm-compose generate``: builds artefacts that are missing or out of date."""

from __future__ import annotations

import argparse

from kvmcompose.cli._labels import add_labels
from kvmcompose.cli._project import add_names, find_project, names_of
from kvmcompose.core.event import Listener
from kvmcompose.monitor.build import BuildJson, BuildLines
from kvmcompose.monitor.console import Console

NAME = "generate"
ALIASES = ("generate-artefacts",)
HELP = "build the artefacts that are missing or out of date"
EXAMPLE = """\
examples:
  kvm-compose generate                  everything
  kvm-compose generate server           artefacts of one guest
  kvm-compose generate domain-xml       all domain XML
  kvm-compose generate -k               continue when one cannot be built
  kvm-compose generate --overwrite      replace hand edits (each is kept as .orig)
  kvm-compose generate --provision web  a new disk for a guest that has run: its data is lost
"""

_MOST_JOBS = 256


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_names(parser)
    add_labels(parser)
    parser.add_argument(
        "-n",
        "--jobs",
        type=_jobs,
        metavar="N",
        help="the number of processes (default: chosen by the number of artefacts)",
    )
    parser.add_argument("-k", "--keep-going", action="store_true", help="build everything that can be built")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that were edited by hand; each is kept as .orig",
    )
    parser.add_argument(
        "--provision",
        action="store_true",
        help="create new disks even for guests that have run: their data is lost",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read every artefact, regardless of its time stamp"
    )
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="fail if another build runs in this project, instead of waiting",
    )
    parser.add_argument("--json", action="store_true", help="print each event as a line of JSON")


def _jobs(text: str) -> int:
    jobs = int(text) if text.isdecimal() else 0
    if not 1 <= jobs <= _MOST_JOBS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_JOBS}")
    return jobs


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Build, and return the exit status."""
    from kvmcompose.build.generate import generate

    project = find_project(arguments)
    for warning in project.compiled.warnings:
        console.problem(warning)

    def waiting(holder: str) -> None:
        console.say(f"waiting for another build in this project (process {holder})")

    def build(listener: Listener) -> bool:
        return generate(
            project,
            names_of(arguments, project),
            listener=listener,
            waiting=None if arguments.no_wait else waiting,
            jobs=arguments.jobs,
            keep_going=arguments.keep_going,
        )

    if arguments.json:
        return 0 if build(BuildJson(console)) else 1
    with BuildLines(console) as lines:
        return 0 if build(lines) else 1
