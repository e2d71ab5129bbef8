"""``kvm-compose test``: asks running guests by packets what ``expect`` says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli._project import open_project
from kvmcompose.cli._server import UnknownDeploymentError, add_server_options, exit_status, open_target
from kvmcompose.core.errors import RefusedError
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.core.deployment import Action
    from kvmcompose.core.tested import TestDocument

NAME = "test"
HELP = "send packets between running guests: which lines of expect hold"
EXAMPLE = """\
examples:
  kvm-compose up && kvm-compose test
  kvm-compose test --timeout 10               for slow guests and networks
  kvm-compose test --junit report.xml

Packets are sent from inside guests (ping; for TCP and UDP bash, python3 or nc) and
looked for at the interface of the target. Nothing has to listen there. Guests that
send must run and be reachable by kvm-compose exec. The exit status is 1 if a line is
broken or could not be tested, 3 if the testbed is not up.
"""
_MOST_SECONDS = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help=f"how long to send again what nothing answers: 1 to {_MOST_SECONDS} (default: 3)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="also write a report in JUnit's XML")
    add_server_options(parser)


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number of seconds from 1 to {_MOST_SECONDS}"
        )
    return int(text)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print what holds."""
    from kvmcompose.cli._output_file import write_output
    from kvmcompose.client.testing import SECONDS, NotTestedError, run_tests
    from kvmcompose.monitor.action import ActionLines
    from kvmcompose.reachability.junit import junit_of_test

    project = open_project(arguments, console)
    watcher = ActionLines(console)

    def ended(action: Action) -> None:
        if exit_status(action) != 0:
            watcher.ended(action)

    if not project.compiled.placed.logical.expectations:
        console.say("nothing is expected: the YAML has no 'expect'")
    try:
        target = open_target(arguments)
    except UnknownDeploymentError as error:  # as for a testbed that was taken down: no line is broken
        raise RefusedError(error.message, hint=error.hint) from error
    try:
        found = run_tests(
            target.server,
            target.name,
            project.compiled,
            project.testbed,
            watcher,
            seconds=arguments.timeout or SECONDS,
            ended=ended,
        )
    except NotTestedError as error:
        return exit_status(error.action)
    finally:
        console.status("")
    if arguments.json:
        console.json(found)
    else:
        _print(found, console)
    if arguments.junit is not None:  # last: what took minutes is not lost to a disk that is full
        write_output(arguments.junit, junit_of_test(found))
    return 0 if found.holds else 1


def _print(found: TestDocument, console: Console) -> None:
    from kvmcompose.core.tested import Verdict
    from kvmcompose.reachability.tested import broken_lines

    colours = {
        Verdict.HOLDS: "green", Verdict.BROKEN: "red", Verdict.UNKNOWN: "yellow", Verdict.SKIPPED: "dim"
    }  # fmt: skip
    for line in found.expectations:
        word = console.paint(f"{line.verdict:7}", colours[line.verdict])
        at = "" if line.verdict is Verdict.HOLDS else f" ({line.at})"
        console.data(f"{word}  {line.text}{at}")
        for each in broken_lines(line):
            console.data(f"         {each}")
    counts = [
        f"{number} {verdict}"
        for verdict in Verdict
        if (number := sum(line.verdict is verdict for line in found.expectations))
    ]
    if counts:
        console.say(f"expectations: {', '.join(counts)}")
