"""``kvm-compose down``: takes the testbed down."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import act, add_action_options, add_guest, open_target, usage_error

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "down"
ALIASES = ("destroy",)
HELP = "take the testbed down; disks are kept unless --purge is given"
EXAMPLE = """\
examples:
  kvm-compose down                  shut guests down, remove networks
  kvm-compose down web              this guest alone; the next up brings it up again
  kvm-compose down --timeout 0      switch guests off at once
  kvm-compose down --purge          also remove disks, snapshots and built images: data is lost
  kvm-compose down --project-name lab    from anywhere

This needs neither the YAML nor the artefacts: the server knows what is up. destroy is
another name for down, without --purge: it never removes disks.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_guest(parser, "guests", nargs="*", help="take down these guests alone")
    parser.add_argument(
        "--purge",
        action="store_true",
        help="remove disks, snapshots and images that were built: data is lost",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        default=60.0,
        help="how long a guest may take to shut down before it is switched off (default: 60)",
    )
    parser.add_argument(
        "--abandon",
        action="append",
        default=[],
        metavar="HOST",
        help="give up a testbed host that will not come back, with everything on it (may be repeated)",
    )
    add_action_options(parser)


def seconds(text: str) -> float:
    """Return how long a guest may take to shut down. Raises ArgumentTypeError."""
    most = 3600
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {most}")
    return seconds


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Take the testbed down, and return the exit status."""
    from kvmcompose.core.commands import Down

    if arguments.command != NAME and arguments.purge:
        raise usage_error(
            f"{arguments.command} never removes disks", "to lose guests' data: kvm-compose down --purge"
        )
    target = open_target(arguments, register=True)  # it may be up, and the server's database lost
    command = Down(
        purge=arguments.purge,
        timeout=arguments.timeout,
        abandon=tuple(arguments.abandon),
        guests=tuple(arguments.guests),
    )
    return act(target, command, arguments, console)
