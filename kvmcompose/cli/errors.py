"""``kvm-compose errors``: shows the errors of an action."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import action_named, add_action_name, add_server_options, open_target

if TYPE_CHECKING:
    from kvmcompose.core.deployment import Action
    from kvmcompose.monitor.console import Console

NAME = "errors"
HELP = "show the failures of an action: step, guest, host, cause and remedy"
EXAMPLE = """\
examples:
  kvm-compose errors                  errors of the latest action
  kvm-compose errors --action 5f3a    errors of another one (see kvm-compose logs --list)
  kvm-compose errors --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_action_name(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the errors."""
    from kvmcompose.client.formatting import date, failure_text, fault_text
    from kvmcompose.core.commands import spoken

    target = open_target(arguments)
    action = action_named(target, arguments.action)
    if arguments.json:
        console.json(action)
        return 0
    for fault in action.faults:
        console.data(f"{console.paint('error:', 'red')} {fault_text(fault)}")
    ended = failure_text(action) or f"{spoken(action.command, action.options)} succeeded"
    console.say(f"{ended} (action {action.uuid[:8]} of {date(action.started)})")
    if not action.faults:
        _point_to_earlier(target.server.actions(target.name), action, console)
    return 0


def _point_to_earlier(actions: list[Action], shown: Action, console: Console) -> None:
    from kvmcompose.client.formatting import date
    from kvmcompose.core.commands import spoken

    earlier = (each for each in actions if each.faults and each.started <= shown.started)
    last = next(earlier, None)
    if last is not None:
        console.say(
            f"the last action with errors was {spoken(last.command, last.options)} of {date(last.started)}: "
            f"kvm-compose errors --action {last.uuid[:8]}"
        )
