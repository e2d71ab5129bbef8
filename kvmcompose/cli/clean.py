"""``kvm-compose clean``: removes artefacts."""

from __future__ import annotations

import argparse

from kvmcompose.cli._labels import add_labels
from kvmcompose.cli._project import add_names, names_of, open_project
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
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_names(parser, "guests, tasks or artefacts (default: all)")
    add_labels(parser)
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    parser.add_argument("--force", action="store_true", help="remove edited files and disks in use as well")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Remove them."""
    from kvmcompose.build.doit_runner import clean

    project = open_project(arguments, console)
    return clean(project, names_of(arguments, project), dry_run=arguments.dry_run, force=arguments.force)
