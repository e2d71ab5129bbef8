"""``kvm-compose validate``: checks the YAML and the config."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.cli._project import where
from kvmcompose.cli._server import usage_error
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.build.project import Project

NAME = "validate"
HELP = "check kvm-compose.yaml and the config, and show all problems"
EXAMPLE = """\
examples:
  kvm-compose validate
  kvm-compose validate --expect     also prove the lines of expect, as check does
  kvm-compose validate --json | jq -r '.problems[].location.line'
  kvm-compose validate --stdin < new.yaml
                                    a text as if it were the project's YAML

The exit status is 2 if there are errors, 0 if there are only warnings.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--expect", action="store_true", help="also prove each line of expect")
    parser.add_argument(
        "--stdin", action="store_true", help="check the text on standard input in place of kvm-compose.yaml"
    )
    parser.add_argument(
        "--save",
        metavar="SHA256",
        help="with --stdin: also write the text to kvm-compose.yaml, if it is valid and that file still has"
        " this digest",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the problems."""
    from kvmcompose.build.project import Project

    text = _standard_input(arguments)
    problems: tuple[Problem, ...] = ()
    status = 0
    guests = 0
    try:
        project = Project(where(arguments), text=text)
        compiled = project.compiled
        refusals = project.refusals()
        broken = _broken(project) if arguments.expect else ()
        problems = (*refusals, *compiled.warnings, *project.hints(), *broken)
        status = InputError.exit_code if refusals or broken else 0
        guests = len(compiled.state.testbed_guests)
    except InputError as error:
        problems, status = error.problems, error.exit_code
    if text is not None and arguments.save is not None and status == 0:
        _save(arguments, text)
    if arguments.json:
        console.json({"valid": status == 0, "problems": [msgspec.to_builtins(each) for each in problems]})
        return status
    for problem in problems:
        console.problem(problem)
    if status == 0:
        console.say(f"valid: {guests} guest{'s' if guests != 1 else ''}")
    else:
        console.say(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}")
    return status


def _standard_input(arguments: argparse.Namespace) -> bytes | None:
    """Return the text that is to be checked; None for that of the file. Raises InputError."""
    from kvmcompose.pipeline.text import MAX_BYTES

    if not arguments.stdin:
        if arguments.save is not None:
            raise usage_error("--save requires --stdin")
        return None
    return sys.stdin.buffer.read(MAX_BYTES + 1)  # one that is longer is a problem of its own


def _save(arguments: argparse.Namespace, text: bytes) -> None:
    """Write the text to the YAML. Raises RefusedError where that is not the file that the user has read."""
    from kvmcompose.build.project_inputs import yaml_path
    from kvmcompose.effects.replace_known import replace_known

    replace_known(yaml_path(arguments.directory.absolute(), where(arguments)), arguments.save.lower(), text)


def _broken(project: Project) -> tuple[Problem, ...]:
    """Return the lines of ``expect`` that do not hold. Raises RefusedError where OVN is missing."""
    from kvmcompose.reachability.check import check
    from kvmcompose.reachability.junit import traffic_text

    return tuple(
        Problem(
            code="broken-expectation",
            message=f"this does not hold: {traffic_text(line.broken[0])}",
            location=line.at,
            path=line.path,
            hint=None
            if len(line.broken) == 1
            else f"{len(line.broken)} of {line.pairs} pairs: kvm-compose check",
        )
        for line in check(project.compiled, project.testbed).expectations
        if not line.holds
    )
