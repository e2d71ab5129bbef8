"""``kvm-compose status``: shows the current state of the testbed."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from kvmcompose.cli._labels import add_labels, labelled
from kvmcompose.cli._server import INTERRUPTED, Target, add_server_options, open_target
from kvmcompose.effects.signals import on_signals

if TYPE_CHECKING:
    from kvmcompose.core.deployment import GuestStatus, TestbedStatus
    from kvmcompose.monitor.console import Console

NAME = "status"
ALIASES = ("ps",)
HELP = "show the current state of the testbed and its guests"
EXAMPLE = """\
examples:
  kvm-compose status
  kvm-compose status --watch                 every 2 seconds, until Ctrl-C
  kvm-compose status --label role=web        only these guests
  kvm-compose status --json
  kvm-compose status --quiet --exit-status   for scripts: is it up?

CPU is relative to one CPU: 200 % means that two are busy. MEMORY is the host's memory that the guest
uses, of the memory that it was given. ADDRESS may be one that this host does not reach, as on a logical
switch: kvm-compose console needs none. "degraded" means: up, but something was changed outside
of kvm-compose, or a host does not respond.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("-w", "--watch", action="store_true", help="refresh every 2 seconds")
    parser.add_argument(
        "--exit-status",
        action="store_true",
        help="exit with status 1 unless it is up and unchanged since up",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one line per refresh")
    add_labels(parser)
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the status."""
    target = open_target(arguments, register=arguments.project_name is None)
    if arguments.watch:
        return _watch(target, arguments, console)
    status = _status(target, arguments)
    if arguments.json:
        console.json(status)
    elif console.verbosity >= 0:
        _show(status, console)
    return 1 if arguments.exit_status and not _as_it_should_be(status) else 0


def _status(target: Target, arguments: argparse.Namespace) -> TestbedStatus:
    return _selected(target.server.status(target.name), target, arguments)


def _selected(status: TestbedStatus, target: Target, arguments: argparse.Namespace) -> TestbedStatus:
    """Return the status with only the guests that ``--label`` selects."""
    from msgspec.structs import replace

    if not arguments.labels:
        return status
    wanted = labelled(target, arguments.labels)
    return replace(status, guests=tuple(guest for guest in status.guests if guest.name in wanted))


def _as_it_should_be(status: TestbedStatus) -> bool:
    from kvmcompose.core.deployment import Phase

    return status.deployment.state is Phase.UP and not status.differences


def _watch(target: Target, arguments: argparse.Namespace, console: Console) -> int:
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True  # an exception that is raised in a finaliser is lost
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt), on_signals(end, signal.SIGINT):  # this is how users end it
        for status in _reports(target):
            shown = _selected(status, target, arguments)
            if arguments.json:
                console.json_line(shown)
            else:
                if sys.stdout.isatty():
                    sys.stdout.write("\x1b[H\x1b[J")  # clear the screen
                _show(shown, console)
                sys.stdout.flush()
            if ended:
                break
    return INTERRUPTED


def _reports(target: Target) -> Iterator[TestbedStatus]:
    """Yield the status whenever the server reports it. Raises ServerError."""
    from kvmcompose.client.errors import error_from
    from kvmcompose.core.deployment_event import StatusReport

    for event in target.server.events(target.name, status=True):
        if isinstance(event, StatusReport):
            if event.problem is not None:
                raise error_from(event.problem)
            if event.status is not None:
                yield event.status


def _show(status: TestbedStatus, console: Console) -> None:
    from kvmcompose.client.formatting import state_text

    console.data(f"{status.deployment.name}: {state_text(status.deployment)}")
    if status.guests:
        titles = ["GUEST", "HOST", "STATE", "ADDRESS", "UPTIME", "CPU", "MEMORY"]
        console.table([_cells(guest) for guest in status.guests], titles)
    for difference in status.differences:
        console.data(f"{console.paint('differs:', 'yellow')} {difference}")


def _cells(guest: GuestStatus) -> list[str]:
    from kvmcompose.client.formatting import address_text, duration, guest_state_text, memory_text

    return [
        guest.name,
        guest.host,
        guest_state_text(guest),
        address_text(guest),
        "-" if guest.uptime is None else duration(guest.uptime, whole=True),
        "-" if guest.cpu is None else f"{guest.cpu:.0%}",
        memory_text(guest),
    ]
