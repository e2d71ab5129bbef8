"""Snapshots of domains: the disk and, of a guest that runs, memory."""

from __future__ import annotations

import posixpath
import re
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime

import msgspec

from kvmcompose.core.commands import Snapshot, SnapshotVerb
from kvmcompose.core.deployment import SnapshotStatus
from kvmcompose.core.errors import RefusedError
from kvmcompose.effects.threads import in_thread
from kvmcompose.providers.libvirt.snapshot_definitions import snapshot_disks
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.guest_clock import set_clock
from kvmcompose.server.orchestrator.resources._domain_spec import OFF
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.store import SEED_MARK, SNAPSHOT_MARK

#: What QEMU may give to a snapshot as its ID: it counts them. Dates (20260131) are too large for that.
_LIKE_AN_ID = re.compile(r"[1-9][0-9]{0,5}")


class _Then(msgspec.Struct, frozen=True):
    """A guest at the time of a snapshot: the seed that it was started with, and its host key."""

    seed: str | None = None
    key: str | None = None


def is_in_snapshots(guest: LoadedGuest) -> bool:
    """Return whether a guest has a disk of its own."""
    return guest.domain is not None and bool(guest.domain.image_disks)


def check_snapshot(guest: LoadedGuest, command: Snapshot, state: str) -> None:
    """Raise RefusedError for a name that is like a number, and for a guest that has to be off."""
    if command.verb is not SnapshotVerb.CREATE:
        return
    if guest.domain is not None and guest.domain.mounts and state not in OFF:
        raise RefusedError(
            f"{guest.name} is {state}, and QEMU makes no snapshot of a guest that can reach a share",
            hint=_while_off(guest, command),
        )
    if guest.domain is not None and guest.domain.nvram is not None and state not in OFF:
        raise RefusedError(
            f"{guest.name} is {state}, and libvirt makes snapshots of a guest with UEFI firmware only while"
            " it is off: of its disks",
            hint=_while_off(guest, command),
        )
    shared = guest.domain.shared_disks if guest.domain is not None else {}
    if written := [path for path, each in shared.items() if not each.readonly]:
        raise RefusedError(
            f"{guest.name} writes to a shareable disk ({written[0]}), of which libvirt makes no"
            " snapshot: it is raw, and its data would go back under other guests",
            hint=f"guests without one: kvm-compose snapshot create {command.name} -n GUEST",
        )
    if _LIKE_AN_ID.fullmatch(command.name):
        raise RefusedError(
            f"a snapshot cannot be named {command.name}: QEMU numbers snapshots, and takes a name that is"
            " a number for the number of another one",
            hint=f"kvm-compose snapshot create v{command.name}",
        )


def _while_off(guest: LoadedGuest, command: Snapshot) -> str:
    name = guest.name
    return (
        f"kvm-compose stop {name} && kvm-compose snapshot create {command.name} -n {name}"
        f" && kvm-compose start {name}"
    )


async def snapshot(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, command: Snapshot, step: RunningStep
) -> None:
    """Make a snapshot, restore it or delete it."""
    hypervisor = context.host_of(guest, testbed).hypervisor
    verbs = {
        SnapshotVerb.CREATE: hypervisor.snapshots.create,
        SnapshotVerb.RESTORE: hypervisor.snapshots.restore,
        SnapshotVerb.DELETE: hypervisor.snapshots.delete,
    }
    work: Awaitable[None] = verbs[command.verb](guest.state.domain, command.name)
    await shielded(work)
    await _follow(context, testbed, guest, command, step)
    if command.verb is SnapshotVerb.RESTORE:
        known = await hypervisor.snapshots.of(guest.state.domain)
        for line in _other_disks(
            guest, next((each.xml for each in known if each.name == command.name), None)
        ):
            step.say(line)
        if await set_clock(hypervisor.agents, guest, again=True):
            step.say(f"the clock of {guest.name} is set to the time of now")


def _other_disks(guest: LoadedGuest, xml: str | None) -> Iterator[str]:
    """Yield what a guest has of disks that it did not have at a snapshot, and of those that it had then."""
    then = {posixpath.basename(disk.path) for disk in snapshot_disks(xml)} if xml is not None else set()
    if not then or guest.domain is None:
        return
    now = {posixpath.basename(path) for path in guest.domain.image_disks}
    for name in sorted(now - then):
        yield f"{name} is not in the snapshot and keeps its data; kvm-compose up plugs it in again"
    for name in sorted(then - now):
        yield f"{name} is as it was, and in the guest until kvm-compose up takes it out"


async def _follow(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, command: Snapshot, step: RunningStep
) -> None:
    """Remember what a guest is at a snapshot, or let it be that again.

    After another seed a guest has another host key; restored, it has the one of before.
    """
    store, project, identity = context.store, context.project, guest.state.identity
    kind, shell = f"{SNAPSHOT_MARK}{command.name}", context.shell
    login = await in_thread(testbed.login, guest, guest.address or "")
    if command.verb is SnapshotVerb.CREATE:
        then = _Then(seed=store.mark(project, SEED_MARK, identity), key=await shell.host_key(login))
        store.put_mark(project, kind, identity, msgspec.json.encode(then).decode())
        return
    if command.verb is SnapshotVerb.DELETE:
        store.put_mark(project, kind, identity, None)
        return
    await shell.disconnect(guest.state.domain)
    store.forget_marks(project, identity)  # the guest knows nothing of what came later
    noted = store.mark(project, kind, identity)
    now = store.mark(project, SEED_MARK, identity)
    then = msgspec.json.decode(noted, type=_Then) if noted is not None else _Then(seed=now)
    if then.seed != now:
        store.put_mark(project, SEED_MARK, identity, then.seed)
        step.say(f"{guest.name} has the set-up of then, and its host key: its seed has changed since")
    if noted is None or then.key is None:
        await shell.forget(login)  # a snapshot of an earlier version; its key is recorded at next contact
    else:
        await shell.expect(login, then.key)


async def snapshots(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> list[SnapshotStatus]:
    """Return the snapshots of a guest whose domain is there."""
    known = context.host_of(guest, testbed).hypervisor.snapshots
    return [
        SnapshotStatus(
            guest=guest.name,
            name=each.name,
            created=datetime.fromtimestamp(each.created, UTC).isoformat().replace("+00:00", "Z"),
            state=each.state,
            current=each.current,
        )
        for each in await known.of(guest.state.domain)
    ]


def kept_snapshots(context: Context, guest: LoadedGuest) -> list[SnapshotStatus]:
    """Return those of a guest that is down, from what was noted when it was taken down."""
    found = []
    for name, xml in context.store.snapshots(context.project, guest.state.identity):
        tree = ET.fromstring(xml)  # noqa: S314 (written by libvirt)
        created = datetime.fromtimestamp(float(tree.findtext("creationTime") or 0), UTC)
        found.append(
            SnapshotStatus(
                guest=guest.name,
                name=name,
                created=created.isoformat().replace("+00:00", "Z"),
                state=tree.findtext("state") or "",
            )
        )
    return found
