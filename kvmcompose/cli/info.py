"""``kvm-compose info``: shows doit's view of a task."""

from __future__ import annotations

import argparse

from kvmcompose.cli._project import complete_names, open_project
from kvmcompose.monitor.console import Console

NAME = "info"
HELP = "show a task as doit sees it: targets, dependencies, status"
EXAMPLE = """\
examples:
  kvm-compose info domain-xml:server
  kvm-compose why domain-xml:server   its inputs, and which of them changed
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    names = parser.add_argument("names", metavar="TASK", nargs="+", help="a task")
    names.completer = complete_names  # type: ignore[attr-defined] # argcomplete looks for it
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run doit's ``info``. Returns 0 when the tasks are up to date, else 1."""
    from kvmcompose.build.doit_runner import doit_command

    project = open_project(arguments, console)
    if not arguments.json:
        return doit_command(project, "info", arguments.names)
    tasks = set(project.tasks_named(arguments.names))
    found = [each for each in project.plan(arguments.names).decisions if each.task in tasks]
    console.json(
        [
            {
                "task": each.task,
                "path": each.path,
                "summary": each.artefact.summary,
                "needs": each.artefact.after,
                "action": each.action.value,
                "reasons": each.reasons,
                "up_to_date": each.settled,
            }
            for each in found
        ]
    )
    return 0 if all(each.settled for each in found) else 1
