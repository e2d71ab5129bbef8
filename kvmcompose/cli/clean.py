"""``kvm-compose clean``: removes artefacts."""

from __future__ import annotations

import argparse

from kvmcompose.cli._labels import add_labels
from kvmcompose.cli._project import add_names, names_of, open_project
from kvmcompose.cli._server import usage_error
from kvmcompose.monitor.console import Console

NAME = "clean"
ALIASES = ("clear-artefacts",)
HELP = "remove artefacts; edited files and disks in use only with --force"
EXAMPLE = """\
examples:
  kvm-compose clean                   everything that can be rebuilt
  kvm-compose clean disk:server
  kvm-compose clean --dry-run
  kvm-compose clean --force           edited files and guests' data too
  kvm-compose clean --left-over old   what a guest left that the YAML no longer has
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_names(parser, "guests, tasks or artefacts (default: all)")
    add_labels(parser)
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    parser.add_argument("--force", action="store_true", help="remove edited files and disks in use as well")
    parser.add_argument(
        "--left-over",
        metavar="NAME",
        nargs="+",
        help="remove files of guests that are no longer in the YAML, disks with data included",
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Remove them."""
    from kvmcompose.build.doit_runner import clean, clean_left_over

    if arguments.left_over and (arguments.names or arguments.labels or arguments.force):
        raise usage_error("--left-over excludes NAME, --label and --force")
    project = open_project(arguments, console)
    if arguments.left_over:
        return clean_left_over(project, arguments.left_over, dry_run=arguments.dry_run)
    return clean(project, names_of(arguments, project), dry_run=arguments.dry_run, force=arguments.force)
