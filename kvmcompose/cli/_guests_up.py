"""What ``up`` shows of guests: how many of how many while it works, and how to get in when they are up."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    import argparse

    from kvmcompose.cli._server import Target
    from kvmcompose.core.deployment import GuestStatus
    from kvmcompose.monitor.action import Totals
    from kvmcompose.monitor.console import Console

#: The most guests of the table; the status has all.
_MOST = 40


def totals(folder: Path) -> Totals:
    """Return how much each stage of ``up`` has to do; nothing where its state cannot be read."""
    import msgspec

    from kvmcompose.core.state import decode_state
    from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
    from kvmcompose.guests import guest_kind

    try:
        state = decode_state(read_regular(folder / "state.json", limit=DOCUMENT_LIMIT))
        guests = [each for each in state.testbed_guests.values() if not each.is_golden_image]
        runs = [guest_kind(each.kind).deployable(each, state.shared) for each in guests]
    except (OSError, KvmComposeError, LookupError, ValueError, StopIteration, msgspec.MsgspecError):
        return {}  # the server says what is wrong with it
    found = [run for run in runs if run is not None]
    return {
        "guests": (len(found), "guest"),
        "setup": (sum(len(run.setup_scripts) for run in found), "script"),
        "run": (sum(len(run.run_scripts) for run in found), "script"),
    }


def show_guests(target: Target, arguments: argparse.Namespace, console: Console) -> int:
    """Print a table of the guests, with their addresses and how to get in; return how many run."""
    guests = target.server.status(target.name).guests
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

    way = "ssh" if guest.address is not None else "console"
    command = f"{way} {guest.name}" if guest.runtime == "libvirt" else f"exec {guest.name} -- sh"
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
