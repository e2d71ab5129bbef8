"""``kvm-compose logs``: shows the logs of actions."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from kvmcompose.cli._labels import add_labels, labelled
from kvmcompose.cli._server import (
    INTERRUPTED,
    Target,
    action_named,
    add_action_name,
    add_guest,
    add_server_options,
    exit_status,
    guest_named,
    open_target,
    usage_error,
)
from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    from kvmcompose.core.deployment import Action
    from kvmcompose.monitor.console import Console

NAME = "logs"
HELP = "show the log of an action, or the console of a guest"
EXAMPLE = """\
examples:
  kvm-compose logs                     the latest action
  kvm-compose logs -f                  follow it until it ends
  kvm-compose logs --guest server      only the lines about one guest
  kvm-compose logs --list              all actions
  kvm-compose logs --action 5f3a       one of them, by the start of its UUID
  kvm-compose logs --json
  kvm-compose logs server              what the console of a guest has printed
  kvm-compose logs -f --tail 20 server

With -f the exit status is that of the action. Ctrl-C leaves it running. The log of a
guest begins with its last start, and -f follows it until Ctrl-C.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("-f", "--follow", action="store_true", help="follow the log until the action ends")
    parser.add_argument("--list", action="store_true", help="list all actions, the latest first")
    add_action_name(parser)
    add_guest(parser, "--guest", help="only lines about this guest")
    add_labels(parser)
    parser.add_argument("-t", "--timestamps", action="store_true", help="start every line with its time")
    parser.add_argument("--json", action="store_true", help="print each line of the log as a line of JSON")
    parser.add_argument(
        "-n", "--tail", type=_count, metavar="N", help="only the last N lines of a guest's console"
    )
    add_server_options(parser)
    add_guest(
        parser, "console", nargs="?", help="the guest whose console is shown (default: an action's log)"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > len("1000000"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the log, or the list of actions."""
    target = open_target(arguments)
    if arguments.console is not None:
        from kvmcompose.cli._consoles import show_console

        return show_console(target, arguments, console)
    if arguments.tail is not None:
        raise usage_error("--tail is for the console of a guest", "kvm-compose logs --tail N GUEST")
    if arguments.list:
        _list(target.server.actions(target.name), arguments, console)
        return 0
    action = action_named(target, arguments.action)
    guests = _guests(target, action, arguments)
    try:
        return _show(target, action, guests, arguments, console)
    except KeyboardInterrupt:
        if not arguments.follow:
            raise
        return INTERRUPTED  # this is how users end it: no error message


def _guests(target: Target, action: Action, arguments: argparse.Namespace) -> list[str] | None:
    """Return the guests whose lines are shown: some that exist now, or that existed when the action ran."""
    given = arguments.guest
    if given is None:
        return labelled(target, arguments.labels) if arguments.labels else None
    if arguments.labels:
        raise usage_error("--guest and --label exclude each other")
    known = [step.guest for step in target.server.steps(target.name, action.uuid) if step.guest]
    with suppress(KvmComposeError):
        known += [guest.name for guest in target.server.access(target.name)]
    return [guest_named(target, dict.fromkeys(known), given)]


def _list(actions: list[Action], arguments: argparse.Namespace, console: Console) -> None:
    from kvmcompose.client.formatting import date, duration, seconds_between
    from kvmcompose.core.commands import spoken

    if arguments.json:
        console.json(actions)
        return
    rows = [
        [
            action.uuid[:8],
            date(action.started),
            spoken(action.command, action.options),
            str(action.state),
            duration(seconds_between(action.started, action.ended)) if action.ended else "-",
            action.asked_by or action.who or "-",
        ]
        for action in actions
    ]
    console.table(rows, ["ACTION", "STARTED", "COMMAND", "STATE", "TOOK", "BY"])


def _show(
    target: Target,
    action: Action,
    guests: list[str] | None,
    arguments: argparse.Namespace,
    console: Console,
) -> int:
    from kvmcompose.client.action import replay, watch
    from kvmcompose.core.deployment import ActionState
    from kvmcompose.monitor.action import ActionLines

    server, name = target.server, target.name
    if arguments.json:
        lines = server.follow if arguments.follow else server.lines
        for line in lines(name, action.uuid):
            if guests is None or line.guest in guests:
                console.json_line(line)
        return exit_status(server.action(name, action.uuid)) if arguments.follow else 0
    shown = ActionLines(console, data=True, timestamps=arguments.timestamps, only=guests)
    if arguments.follow and action.state is ActionState.RUNNING:
        try:
            action = watch(server, name, action.uuid, shown)
        finally:
            console.status("")
    else:
        replay(server.lines(name, action.uuid), server.steps(name, action.uuid), shown)
    sys.stdout.flush()
    if action.state is not ActionState.RUNNING:
        shown.ended(action)
    return exit_status(action) if arguments.follow else 0
