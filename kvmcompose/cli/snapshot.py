"""``kvm-compose snapshot``: creates, restores and deletes snapshots of guests."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING

from kvmcompose.cli._labels import add_labels, labelled
from kvmcompose.cli._server import (
    Target,
    act,
    add_action_options,
    add_guest,
    add_server_options,
    guest_named,
    open_target,
    unknown_name,
    usage_error,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmcompose.core.commands import SnapshotVerb
    from kvmcompose.core.deployment import SnapshotStatus
    from kvmcompose.monitor.console import Console

NAME = "snapshot"
HELP = "take and restore snapshots of guests"
EXAMPLE = """\
examples:
  kvm-compose snapshot create clean                    of all guests
  kvm-compose snapshot create --guest server clean     of one guest (--guest may be repeated)
  kvm-compose snapshot create --label tier=db clean    of the guests with this label
  kvm-compose snapshot list
  kvm-compose snapshot info clean
  kvm-compose snapshot restore clean
  kvm-compose snapshot delete clean
  kvm-compose snapshot delete --guest server --all     all snapshots of one guest

Guests may be running or off. The snapshot of a running guest includes its memory; that
of a container has its files only, without volumes.
"""

_VERBS = {
    "create": "take a snapshot",
    "restore": "restore guests from a snapshot",
    "delete": "delete a snapshot",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    from kvmcompose.cli.main import add_global_options

    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)
    for verb, text in _VERBS.items():
        child = verbs.add_parser(verb, help=text, allow_abbrev=False)
        _add_names(child)
        add_action_options(child)
        add_global_options(child, top=False)
    for verb, text in (("list", "list snapshots"), ("info", "show one snapshot")):
        child = verbs.add_parser(verb, help=text, allow_abbrev=False)
        _add_names(child)
        child.add_argument("--json", action="store_true", help="print JSON")
        add_server_options(child)
        add_global_options(child, top=False)


def _add_names(parser: argparse.ArgumentParser) -> None:
    add_guest(
        parser, "-n", "--guest", "--name", action="append", dest="guests", default=[],
        help="only this guest (default: all)",
    )  # fmt: skip
    add_labels(parser)
    parser.add_argument("-a", "--all", action="store_true", help="all guests (the default)")
    parser.add_argument("-s", "--snapshot", metavar="NAME", dest="named", help=argparse.SUPPRESS)
    parser.add_argument("snapshot", metavar="NAME", nargs="?", help="the snapshot")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run a verb."""
    if arguments.named and arguments.snapshot:
        raise usage_error("two names given for the snapshot")
    name = arguments.snapshot or arguments.named
    target = open_target(arguments)
    if arguments.guests and arguments.labels:
        raise usage_error("--guest and --label exclude each other")
    guests = _guests(target, arguments.guests)
    if arguments.labels:
        guests = tuple(labelled(target, arguments.labels))
    if arguments.verb == "list":
        return _show(_found(target, guests, name), arguments, console)
    if arguments.verb == "info":
        if name is None and not guests:
            raise usage_error("no snapshot named", "kvm-compose snapshot list shows all")
        found = _found(target, guests, name)
        if not found:
            raise unknown_name(f"no such snapshot: {name!r}", "kvm-compose snapshot list shows all")
        return _show(found, arguments, console)
    return _act(target, guests, name, arguments, console)


def _guests(target: Target, given: Sequence[str]) -> tuple[str, ...]:
    if not given:
        return ()
    known = [guest.name for guest in target.server.access(target.name)]
    return tuple(dict.fromkeys(guest_named(target, known, each) for each in given))


def _act(
    target: Target, guests: tuple[str, ...], name: str | None, arguments: argparse.Namespace, console: Console
) -> int:
    from kvmcompose.core.commands import SNAPSHOT_NAMES, SNAPSHOT_PATTERN, Snapshot, SnapshotVerb

    verb = SnapshotVerb(arguments.verb)
    if name is not None and re.search(SNAPSHOT_PATTERN, name) is None:
        raise usage_error(f"{name!r} is not {SNAPSHOT_NAMES}")
    if guests and arguments.all and (verb is not SnapshotVerb.DELETE or name is not None):
        raise usage_error(f"--all and {'--label' if arguments.labels else '--guest'} exclude each other")
    if name is not None:
        return act(target, Snapshot(verb=verb, name=name, guests=guests), arguments, console)
    if verb is SnapshotVerb.CREATE and arguments.all:
        return act(target, Snapshot(verb=verb, name=_fresh_name()), arguments, console)
    if verb is SnapshotVerb.DELETE and arguments.all:
        return _delete_all(target, guests, arguments, console)
    raise usage_error(f"no snapshot named to {verb}", _newest(target, guests, verb))


def _newest(target: Target, guests: tuple[str, ...], verb: SnapshotVerb) -> str:
    """Return a hint with the name of the newest snapshot, if there is one to restore or delete."""
    found = [] if verb == "create" else sorted(_found(target, guests, None), key=lambda each: each.created)
    return f"kvm-compose snapshot {verb} {shlex.quote(found[-1].name) if found else 'NAME'}"


def _fresh_name() -> str:
    from datetime import UTC, datetime

    return f"snapshot-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _delete_all(
    target: Target, guests: tuple[str, ...], arguments: argparse.Namespace, console: Console
) -> int:
    """Delete all snapshots of these guests, or of all guests."""
    from kvmcompose.core.commands import Snapshot, SnapshotVerb

    having: dict[str, list[str]] = {}
    for each in _found(target, guests, None):
        having.setdefault(each.name, []).append(each.guest)
    if not having:
        console.say("there are no snapshots")
    for name, of in having.items():
        command = Snapshot(verb=SnapshotVerb.DELETE, name=name, guests=tuple(of))
        status = act(target, command, arguments, console)
        if status:
            return status
    return 0


def _found(target: Target, guests: tuple[str, ...], name: str | None) -> list[SnapshotStatus]:
    one = guests[0] if len(guests) == 1 else None
    return [
        each
        for each in target.server.snapshots(target.name, one)
        if name in (None, each.name) and (not guests or each.guest in guests)
    ]


def _show(found: list[SnapshotStatus], arguments: argparse.Namespace, console: Console) -> int:
    from kvmcompose.client.formatting import date

    if arguments.json:
        console.json(found)
    elif found:
        rows = [
            [each.name, each.guest, date(each.created), each.state, "yes" if each.current else ""]
            for each in found
        ]
        console.table(rows, ["SNAPSHOT", "GUEST", "CREATED", "GUEST WAS", "CURRENT"])
    else:
        console.say("there are no snapshots")
    return 0
