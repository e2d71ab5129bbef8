"""``kvm-compose exec``: runs a command in a guest."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from kvmcompose.cli._labels import add_labels, labelled
from kvmcompose.cli._server import (
    INTERRUPTED,
    access_to,
    add_server_options,
    complete_guests,
    open_target,
)
from kvmcompose.core.errors import InputError, KvmComposeError

if TYPE_CHECKING:
    from kvmcompose.core.commands import Exec
    from kvmcompose.core.deployment import Action
    from kvmcompose.monitor.console import Console

NAME = "exec"
HELP = "run a command in a guest and exit with its status"
EXAMPLE = """\
examples:
  kvm-compose exec server -- uname -a
  kvm-compose exec server -- sh -c 'ping -c 1 client && echo reachable'
  kvm-compose exec --timeout 30 server -- ./wait-for-it
  kvm-compose exec -i server -- tar x <files.tar
  kvm-compose exec --user postgres server -- psql -l
  kvm-compose exec --label role=web -- systemctl is-active nginx

Put options before the guest. The arguments reach the command unchanged, without a
shell. Both stdout and stderr of the command go to stdout, line by line, as text. The
exit status is that of the command, 128 + N after signal N; 255 if it could not be run;
130 after Ctrl-C, which ends the command in the guest. Use kvm-compose ssh for a
terminal, or for output that is not text.

With --label the command runs in all these guests side by side. Each line of output
starts with its guest's name, and the exit status is the highest one.
"""


class NotRunError(KvmComposeError):
    """The command could not be run. Few commands use this exit status; ssh does as well."""

    exit_code = 255


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "-i", "--interactive", action="store_true", help="send standard input to the command, up to its end"
    )
    parser.add_argument(
        "-u",
        "--user",
        type=_user,
        metavar="NAME",
        help="run the command as this user of the guest (default: the one that kvm-compose logs in as)",
    )
    parser.add_argument("-t", "--tty", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="end the command after this time (default: never)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the log as lines of JSON, followed by the action"
    )
    add_server_options(parser)
    add_labels(parser)
    guest = parser.add_argument(
        "guest", metavar="GUEST", nargs="?", help="the guest, unless --label selects several"
    )
    guest.completer = complete_guests  # type: ignore[attr-defined] # argcomplete looks for it
    command = parser.add_argument(
        "words", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="command and arguments"
    )
    command.completer = _nothing  # type: ignore[attr-defined] # the files here are not those of the guest


def _nothing(**_asked: object) -> list[str]:
    return []


def _user(text: str) -> str:
    import re

    from kvmcompose.core.commands import USER_PATTERN

    if re.match(USER_PATTERN, text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a user")
    return text


def _seconds(text: str) -> float:
    most = 86400
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to {most}")
    return seconds


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command, and return its exit status."""
    if arguments.labels and arguments.guest is not None:  # it is the first word of the command
        arguments.words.insert(0, arguments.guest)
    elif not arguments.labels and arguments.guest is None:
        raise NotRunError("no guest given", hint="kvm-compose exec GUEST -- COMMAND …")
    if arguments.interactive and arguments.labels:
        raise NotRunError("input goes to one guest: -i and --label exclude each other")
    if not arguments.labels and arguments.words[:1] in (["tool"], ["user-script"]):
        raise NotRunError(
            f"{arguments.words[0]!r} is a TestbedOS command that is not supported",
            hint=f"a command of that name: kvm-compose exec {arguments.guest} -- {arguments.words[0]} …",
        )
    if arguments.tty:
        raise NotRunError(
            "exec has no terminal (-t)",
            hint=f"a shell in a terminal: kvm-compose ssh {arguments.guest or 'GUEST'}",
        )
    words = command_words(arguments.words)
    if not words:
        raise NotRunError("no command given", hint="kvm-compose exec GUEST -- COMMAND …")
    try:
        return _run(arguments, console, words)
    except InputError as error:
        raise NotRunError(error.problems[0].message, hint=error.problems[0].hint) from error
    except KvmComposeError as error:
        raise NotRunError(error.message, hint=error.hint) from error


def command_words(words: list[str]) -> list[str]:
    """Return the command without a leading ``--``, or ``shell-command`` as in TestbedOS."""
    if words[:1] == ["shell-command"]:
        words = words[1:]
    return words[1:] if words[:1] == ["--"] else words


def _run(arguments: argparse.Namespace, console: Console, words: list[str]) -> int:
    from kvmcompose.client.action import perform, perform_together
    from kvmcompose.monitor.action import ActionJson, ActionOutput

    target = open_target(arguments)
    if arguments.labels:
        guests = labelled(target, arguments.labels)
        watcher = ActionJson(console) if arguments.json else ActionOutput(console, names=guests)
        commands = [_command(arguments, guest, words) for guest in guests]
        actions = perform_together(target.server, target.name, commands, watcher)
        found = [(guest, action) for guest, action in zip(guests, actions, strict=True) if action is not None]
        statuses = [_report(action, arguments, console) for _, action in found]
        for (guest, action), status in zip(found, statuses, strict=True):
            if action.exit_status and not arguments.json:
                console.say(f"{guest}: exit status {status}")
        return INTERRUPTED if INTERRUPTED in statuses or len(found) < len(guests) else max(statuses)
    watcher = ActionJson(console) if arguments.json else ActionOutput(console)
    command = _command(arguments, access_to(target, arguments.guest).name, words)
    stdin = sys.stdin.fileno() if arguments.interactive else None
    return _report(perform(target.server, target.name, command, watcher, stdin=stdin), arguments, console)


def _command(arguments: argparse.Namespace, guest: str, words: list[str]) -> Exec:
    from msgspec import UNSET

    from kvmcompose.core.commands import Exec

    return Exec(
        guest=guest,
        argv=tuple(words),
        timeout=arguments.timeout,
        stdin=arguments.interactive or UNSET,
        user=arguments.user or UNSET,
    )


def _report(action: Action, arguments: argparse.Namespace, console: Console) -> int:
    """Print how the command ended, and return its exit status."""
    from kvmcompose.client.formatting import failure_text
    from kvmcompose.core.deployment import ActionState

    if arguments.json:
        console.json_line(action)
    if action.state is ActionState.CANCELLED:
        return INTERRUPTED
    if action.exit_status is not None:
        return action.exit_status
    if action.state is ActionState.SUCCEEDED:
        return 0
    if not action.faults:
        console.error(failure_text(action) or "")
    return NotRunError.exit_code
