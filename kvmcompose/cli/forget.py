"""``kvm-compose forget``: makes the next build run tasks again."""

from __future__ import annotations

import argparse

from kvmcompose.cli._project import add_names, open_project
from kvmcompose.monitor.console import Console

NAME = "forget"
HELP = "make tasks run again in the next build, even if they are up to date"
EXAMPLE = """\
examples:
  kvm-compose forget domain-xml:server
  kvm-compose forget domain-xml         all tasks of a group
  kvm-compose forget                    all tasks

Edited files and disks in use are safe: the next build keeps them and asks for
--overwrite or --provision.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_names(parser, "tasks or groups of tasks (default: all)")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run doit's ``forget``."""
    from kvmcompose.build.doit_runner import doit_command

    def waiting(holder: str) -> None:
        console.say(f"waiting for another build in this project (process {holder})")

    project = open_project(arguments, console)
    if project.ledger.path is None and not project.ledger.records():
        return doit_command(project, "forget", arguments.names or ["--all"])
    with project.locked(waiting):
        return doit_command(project, "forget", arguments.names or ["--all"])
