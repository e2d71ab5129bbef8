"""``kvm-compose list``: lists the tasks."""

from __future__ import annotations

import argparse

from kvmcompose.cli._project import open_project
from kvmcompose.monitor.console import Console

NAME = "list"
HELP = "list the tasks"
EXAMPLE = """\
examples:
  kvm-compose list                 groups of tasks
  kvm-compose list --all --status  every task; R: to run, U: up to date
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("names", metavar="TASK", nargs="*", help="only these tasks")
    parser.add_argument("--all", action="store_true", help="list every task, not only groups")
    parser.add_argument("-s", "--status", action="store_true", help="show which are up to date")
    parser.add_argument("--deps", action="store_true", help="show the files that tasks depend on")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """List the tasks: by doit if options need it."""
    project = open_project(arguments, console)
    if arguments.json:
        plan = project.plan()
        console.json(
            [
                {"task": step.task, "path": None, "up_to_date": step.action.value == "keep"}
                for step in plan.images
            ]
            + [{"task": each.task, "path": each.path, "up_to_date": each.settled} for each in plan.decisions]
        )
        return 0
    flags = [f"--{flag}" for flag in ("all", "status", "deps") if getattr(arguments, flag)]
    if not flags and not arguments.names:
        from kvmcompose.build.overview import overview

        stale = project.records(write=False).keys() - project.artefacts.keys()
        console.data(overview(project.artefacts.values(), stale).removesuffix("\n"))
        return 0

    from kvmcompose.build.doit_runner import doit_command

    return doit_command(project, "list", [*flags, *arguments.names])
