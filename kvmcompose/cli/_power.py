"""What the commands ``start``, ``stop``, ``restart``, ``pause`` and ``resume`` have in common."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import act, add_action_options, add_guest, open_target

if TYPE_CHECKING:
    from kvmcompose.core.commands import PowerVerb
    from kvmcompose.monitor.console import Console


def configure(parser: argparse.ArgumentParser, *, stops: bool) -> None:
    """Declare the command line. ``stops``: guests are shut down."""
    add_guest(parser, "guests", nargs="*", help="the guests (default: all)")
    if stops:
        from kvmcompose.cli.down import seconds

        parser.add_argument(
            "--timeout",
            type=seconds,
            metavar="SECONDS",
            default=60.0,
            help="how long a guest may take to shut down before it is switched off (default: 60)",
        )
    add_action_options(parser)


def power(verb: PowerVerb, arguments: argparse.Namespace, console: Console) -> int:
    """Have the server do it, and return the exit status."""
    from kvmcompose.core.commands import Power

    timeout = getattr(arguments, "timeout", 60.0)
    command = Power(verb=verb, guests=tuple(arguments.guests), timeout=timeout)
    return act(open_target(arguments), command, arguments, console)
