"""``kvm-compose convert``: turns a testbed with bridges into one with logical switches."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli._project import open_project
from kvmcompose.core.errors import RefusedError
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.pipeline.convert import Converted

NAME = "convert"
HELP = "turn a testbed with bridges into one with logical switches"
EXAMPLE = """\
examples:
  kvm-compose convert                        print the YAML
  kvm-compose convert -o ovn.yaml && kvm-compose --input ovn.yaml check --matrix
  kvm-compose convert -o kvm-compose.yaml --force

Guests keep their addresses, and what they reach. Connected bridges become one switch; the network of the
external bridge gets a router to the provider network of the main host. What has no counterpart is a warning.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, help="write to a file (default: standard output)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print or write the converted YAML."""
    from kvmcompose.cli._output_file import write_output

    out: Path | None = arguments.out
    if out is not None and not arguments.force and (out.exists() or out.is_symlink()):
        raise RefusedError(
            f"{out} exists: nothing was written",
            hint="name another file, or replace it: --force",
        )
    converted = _converted(arguments, console)
    for note in converted.notes:
        console.problem(note)
    if out is None:
        console.raw(converted.text.encode())
        return 0
    write_output(out, converted.text.encode())
    console.say(f"{out} is written; compare what guests reach: kvm-compose --input {out} check --matrix")
    return 0


def _converted(arguments: argparse.Namespace, console: Console) -> Converted:
    from kvmcompose.effects.resources import schemas
    from kvmcompose.pipeline.convert import convert

    project = open_project(arguments, console)
    return convert(project.testbed, project.compiled, project.compiled_from, schemas())
