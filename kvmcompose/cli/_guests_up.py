"""What ``up`` shows of guests: how many of how many while it works, and how to get in when they are up."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.order import dependencies

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Sequence

    from kvmcompose.cli._server import Target
    from kvmcompose.core.deployment import GuestStatus
    from kvmcompose.core.state import State
    from kvmcompose.monitor.action import Totals
    from kvmcompose.monitor.console import Console

#: The most guests of the table; the status has all.
_MOST = 40


def reached(folder: Path, names: Sequence[str]) -> set[str] | None:
    """Return the guests that an ``up`` of these may change: they, and what they depend on. None for all."""
    state = _state(folder) if names else None
    if state is None:
        return set(names) or None
    guests = state.testbed_guests

    def depends_on(name: str) -> Collection[str]:
        return guests[name].depends_on if name in guests else ()

    return {*names, *dependencies(names, depends_on)}


def _state(folder: Path) -> State | None:
    """Return the state in a folder; None where it cannot be read: the server says what is wrong with it."""
    import msgspec

    from kvmcompose.core.state import decode_state
    from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular

    try:
        return decode_state(read_regular(folder / "state.json", limit=DOCUMENT_LIMIT))
    except (OSError, KvmComposeError, ValueError, StopIteration, msgspec.MsgspecError):
        return None


def totals(folder: Path, only: Collection[str] | None) -> Totals:
    """Return how much each stage of ``up`` has to do; nothing where its state cannot be read.

    ``only``: the guests that it may change.
    """
    import msgspec

    from kvmcompose.guests import guest_kind

    state = _state(folder)
    if state is None:
        return {}
    guests = [
        each
        for name, each in state.testbed_guests.items()
        if not each.is_golden_image and (only is None or name in only)
    ]
    try:
        runs = [guest_kind(each.kind).deployable(each, state.shared) for each in guests]
    except (OSError, KvmComposeError, LookupError, ValueError, StopIteration, msgspec.MsgspecError):
        return {}  # the server says what is wrong with it
    found = [run for run in runs if run is not None]
    return {
        "guests": (len(found), "guest"),
        "setup": (sum(len(run.setup_scripts) for run in found), "script"),
        "run": (sum(len(run.run_scripts) for run in found), "script"),
    }


def show_guests(
    target: Target, arguments: argparse.Namespace, console: Console, only: Collection[str] | None
) -> int:
    """Print a table of the guests, with their addresses and how to get in; return how many run.

    ``only``: the guests that were brought up.
    """
    guests = [each for each in target.server.status(target.name).guests if only is None or each.name in only]
    running = [guest for guest in guests if guest.state == "running"]
    prefix = _command(arguments)
    hosts = len({guest.host for guest in guests}) > 1
    if running:
        rows = [_cells(guest, prefix, hosts=hosts) for guest in running[:_MOST]]
        header = ["GUEST", "HOST", "ADDRESS", "ENTER WITH"]
        console.table(rows, header if hosts else [header[0], *header[2:]], talk=True)
    if len(running) > _MOST:
        console.say(f"and {len(running) - _MOST} more: {prefix} status")
    return len(running)


def _cells(guest: GuestStatus, prefix: str, *, hosts: bool) -> list[str]:
    from kvmcompose.client.formatting import address_text

    by_network = "ssh" if guest.address is not None else "console"
    way = {"libvirt": by_network, "containers": "ssh"}.get(guest.runtime)
    command = f"exec {guest.name} -- sh" if way is None else f"{way} {guest.name}"
    where = [guest.host] if hosts else []
    return [guest.name, *where, address_text(guest), f"{prefix} {command}"]


def _command(arguments: argparse.Namespace) -> str:
    """Return the command with the options that name this project, as far as they were typed."""
    words = ["kvm-compose"]
    if arguments.directory != Path(os.environ.get("KVM_COMPOSE_DIRECTORY", ".")):
        words += ["-C", str(arguments.directory)]
    if arguments.project_name != os.environ.get("KVM_COMPOSE_PROJECT_NAME"):
        words += ["--project-name", arguments.project_name]
    return shlex.join(words)
