"""``kvm-compose info``: doit's view of one task."""

from __future__ import annotations

import argparse

from kvmcompose.cli._project import complete_names, open_project
from kvmcompose.monitor.console import Console

NAME = "info"
HELP = "show a task as doit sees it: targets, dependencies, status"
EXAMPLE = """\
examples:
  kvm-compose info domain-xml:server
  kvm-compose why domain-xml:server   what it is made of, and what changed
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    names = parser.add_argument("names", metavar="TASK", nargs="+", help="a task")
    names.completer = complete_names  # type: ignore[attr-defined] # argcomplete looks for it


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Let doit show it; 0 when the task is up to date, 1 when not."""
    from kvmcompose.tasks.engine import doit_command

    return doit_command(open_project(arguments, console), "info", arguments.names)
