"""``kvm-compose cancel``: stops an action."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import (
    Target,
    action_named,
    add_action_name,
    add_server_options,
    open_target,
)

if TYPE_CHECKING:
    from kvmcompose.core.deployment import Action
    from kvmcompose.monitor.console import Console

NAME = "cancel"
HELP = "cancel the running action of the testbed"
EXAMPLE = """\
examples:
  kvm-compose cancel                  cancel the running action, and wait until it has stopped
  kvm-compose cancel --action 5f3a

The action stops at a point from which both up and down can continue.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_action_name(parser)
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Cancel the action, and wait for its end."""
    from kvmcompose.client.action import watch
    from kvmcompose.monitor.action import ActionLines

    target = open_target(arguments)
    action = action_named(target, arguments.action) if arguments.action else _running(target)
    if action is None or action.ended is not None:
        ended = "nothing is running" if action is None else f"{_spoken(action)} has already ended"
        console.say(ended)
        return 0
    target.server.cancel(target.name, action.uuid)
    shown = ActionLines(console)
    shown.wants_steps = False  # earlier steps were reported to the client that started the action
    seen = max((line.sequence for line in target.server.lines(target.name, action.uuid)), default=0)
    action = watch(target.server, target.name, action.uuid, shown, after=seen)
    console.say(f"{_spoken(action)}: {action.state}")
    return 0


def _spoken(action: Action) -> str:
    from kvmcompose.core.commands import spoken

    return spoken(action.command, action.options)


def _running(target: Target) -> Action | None:
    """Return the running action; of several one that is not an exec, which excludes others."""
    running = [each for each in target.server.actions(target.name) if each.ended is None]
    running.sort(key=lambda each: each.command == "exec")
    return running[0] if running else None
