"""The options of ``up``, which ``plan`` has, too."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import add_guest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvmcompose.core.commands import Up


def add_up_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which changes are carried out."""
    restarts = parser.add_mutually_exclusive_group()
    restarts.add_argument(
        "--no-restart", action="store_true", help="leave changes for which a guest has to restart"
    )
    parser.add_argument(
        "--no-repair", action="store_true", help="leave what was changed outside of kvm-compose"
    )
    restarts.add_argument(
        "--restart",
        action="store_true",
        help="also restart guests that an upgrade of kvm-compose would change",
    )
    parser.add_argument(
        "--allow-moves",
        action="store_true",
        help="let guests that were not edited change their host or address",
    )
    add_guest(
        parser,
        "-r",
        "--rerun-scripts",
        nargs="*",
        help="run setup scripts again that have run before, as they are now: of all guests, or of these",
    )
    parser.add_argument(
        "--recreate",
        action="append",
        default=[],
        metavar="GUEST",
        help="give this guest an empty disk, or make its container again, and set it up again: its data is"
        " lost (may be repeated)",
    )
    parser.add_argument(
        "--reset-clones",
        action="store_true",
        help="rebuild clones whose golden image has changed: their data is lost",
    )
    parser.add_argument(
        "--abandon",
        action="append",
        default=[],
        metavar="HOST",
        help="give up a host that has left the testbed and is gone, with the disks on it (may be repeated)",
    )


def up_command(arguments: argparse.Namespace, guests: Iterable[str]) -> Up:
    """Return the command for these guests (none: all) with the options that were given."""
    from kvmcompose.core.commands import Up

    return Up(
        rerun_scripts=arguments.rerun_scripts is not None,
        rerun_guests=tuple(arguments.rerun_scripts or ()),
        recreate=tuple(arguments.recreate),
        reset_clones=arguments.reset_clones,
        keep_going=getattr(arguments, "keep_going", False),
        provision=arguments.provision,
        restart=arguments.restart,
        no_repair=arguments.no_repair,
        no_restart=arguments.no_restart,
        guests=tuple(guests),
        abandon=tuple(arguments.abandon),
    )
