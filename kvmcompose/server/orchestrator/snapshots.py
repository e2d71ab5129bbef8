"""Snapshots of guests: disks and, of guests that run, memory."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Awaitable
from datetime import UTC, datetime

import msgspec

from kvmcompose.core.commands import Snapshot, SnapshotVerb
from kvmcompose.core.deployment import SnapshotStatus
from kvmcompose.core.errors import RefusedError
from kvmcompose.effects.threads import in_thread
from kvmcompose.providers.libvirt.interface import DomainState
from kvmcompose.server.action_log import ActionLog, Refusals, RunningStep, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.stages import Job, shielded, together
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.store import SEED_MARK, SNAPSHOT_MARK

#: Writing memory to disks gains nothing from many at a time.
_LIMIT = 2
#: What QEMU may give to a snapshot as its ID: it counts them. Dates (20260131) are too large for that.
_LIKE_AN_ID = re.compile(r"[1-9][0-9]{0,5}")


class _Then(msgspec.Struct, frozen=True):
    """A guest at the time of a snapshot: the seed that it was started with, and its host key."""

    seed: str | None = None
    key: str | None = None


class Snapshots:
    """The snapshots of a deployment."""

    def __init__(self, context: Context, testbed: LoadedTestbed) -> None:
        self._context = context
        self._testbed = testbed

    async def do(self, command: Snapshot, log: ActionLog) -> None:
        """Make, restore or delete. Raises RefusedError when nothing was changed, StepFailedError."""
        guests = await self._chosen(command)
        hypervisors = {guest.name: self._context.host_of(guest, self._testbed).hypervisor for guest in guests}
        await self._check(command, guests)

        def job(guest: LoadedGuest) -> Job:
            hypervisor = hypervisors[guest.name]
            verbs = {
                SnapshotVerb.CREATE: hypervisor.create_snapshot,
                SnapshotVerb.RESTORE: hypervisor.restore_snapshot,
                SnapshotVerb.DELETE: hypervisor.delete_snapshot,
            }

            async def run() -> None:
                with log.step(
                    "snapshot",
                    f"{command.verb}:{guest.name}",
                    guest=guest.name,
                    host=guest.state.testbed_host,
                ) as step:
                    work: Awaitable[None] = verbs[command.verb](guest.state.domain, command.name)
                    await shielded(work)
                    await self._follow(command, guest, step)
                    step.say(f"{command.verb} {command.name}")

            return run

        results = await together([job(guest) for guest in guests], limit=_LIMIT)
        if not all(results):
            failed = [guest.name for guest, good in zip(guests, results, strict=True) if not good]
            raise StepFailedError(f"snapshot {command.verb} failed: {', '.join(failed)}")

    async def _follow(self, command: Snapshot, guest: LoadedGuest, step: RunningStep) -> None:
        """Remember what a guest is at a snapshot, or let it be that again.

        After another seed a guest has another host key; restored, it has the one of before.
        """
        store, project, identity = self._context.store, self._context.project, guest.state.identity
        kind, shell = f"{SNAPSHOT_MARK}{command.name}", self._context.shell
        login = await in_thread(self._testbed.login, guest, guest.address or "")
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

    async def _chosen(self, command: Snapshot) -> list[LoadedGuest]:
        named = [self._context.guest(self._testbed, name) for name in dict.fromkeys(command.guests)]
        domains = await self._context.domains(self._testbed, *named)
        if named:
            chosen = named
            absent = [guest.name for guest in chosen if guest.name not in domains]
        else:
            chosen = [guest for guest in self._testbed.runnable if guest.run and guest.run.disk]
            absent = [] if domains else [self._context.project]
            chosen = [guest for guest in chosen if guest.name in domains]
        if absent:
            raise RefusedError(
                f"not there, as the testbed is not up: {', '.join(absent)}", hint="kvm-compose up"
            )
        return chosen

    async def _check(self, command: Snapshot, guests: list[LoadedGuest]) -> None:
        """Whatever would fail for one guest, before it is done to another."""
        if command.verb is SnapshotVerb.CREATE and _LIKE_AN_ID.fullmatch(command.name):
            raise RefusedError(
                f"a snapshot cannot be named {command.name}: QEMU numbers snapshots, and takes a name that is"
                " a number for the number of another one",
                hint=f"kvm-compose snapshot create v{command.name}",
            )
        reasons: list[tuple[str, str | None]] = []
        for guest in guests:
            names = [each.name for each in await self._known(guest)]
            if command.verb is SnapshotVerb.CREATE and command.name in names:
                reasons.append(
                    (
                        f"{guest.name} has a snapshot {command.name} already",
                        "choose another name, or delete it",
                    )
                )
            elif command.verb is not SnapshotVerb.CREATE and command.name not in names:
                known = ", ".join(names) or "none"
                reasons.append((f"{guest.name} has no snapshot {command.name}", f"it has: {known}"))
        if reasons:
            raise Refusals(reasons)

    async def _known(self, guest: LoadedGuest) -> list[SnapshotStatus]:
        hypervisor = self._context.host_of(guest, self._testbed).hypervisor
        return [
            SnapshotStatus(
                guest=guest.name,
                name=each.name,
                created=datetime.fromtimestamp(each.created, UTC).isoformat().replace("+00:00", "Z"),
                state=each.state,
                current=each.current,
            )
            for each in await hypervisor.snapshots(guest.state.domain)
        ]

    async def shown(self, guest: str | None) -> list[SnapshotStatus]:
        """The snapshots of one guest, or of all. Raises RefusedError for an unknown guest."""
        guests = [self._context.guest(self._testbed, guest)] if guest else self._testbed.runnable
        domains: dict[str, DomainState] = await self._context.domains(self._testbed, *guests)
        found: list[SnapshotStatus] = []
        for each in guests:
            if each.name in domains:
                found += await self._known(each)
            else:
                found += self._noted(each)
        return found

    def _noted(self, guest: LoadedGuest) -> list[SnapshotStatus]:
        """Those of a guest that is down, from what was noted when it was taken down."""
        found = []
        for name, xml in self._context.store.snapshots(self._context.project, guest.state.identity):
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
