"""Snapshots of guests: disks and, of guests that run, memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from kvmcompose.core.commands import Snapshot, SnapshotVerb
from kvmcompose.core.deployment import SnapshotStatus
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.names import first_few
from kvmcompose.server.action_log import ActionLog, Refusals, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.instances import instances
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.stages import Job, together
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

#: Writing memory to disks gains nothing from many at a time.
_LIMIT = 2


class Snapshots:
    """The snapshots of a deployment."""

    def __init__(self, context: Context, testbed: LoadedTestbed) -> None:
        self._context = context
        self._testbed = testbed

    async def do(self, command: Snapshot, log: ActionLog) -> None:
        """Make, restore or delete. Raises RefusedError when nothing was changed, StepFailedError."""
        guests, states = await self._chosen(command)
        await self._check(command, guests, states)

        def job(guest: LoadedGuest) -> Job:
            async def run() -> None:
                with log.step(
                    "snapshot",
                    f"{command.verb}:{guest.name}",
                    guest=guest.name,
                    host=guest.state.testbed_host,
                ) as step:
                    await runtime_of(guest).snapshot(self._context, self._testbed, guest, command, step)
                    step.say(f"{command.verb} {command.name}")

            return run

        results = await together([job(guest) for guest in guests], limit=_LIMIT)
        if not all(results):
            failed = [guest.name for guest, good in zip(guests, results, strict=True) if not good]
            raise StepFailedError(f"snapshot {command.verb} failed: {', '.join(failed)}")

    async def _chosen(self, command: Snapshot) -> tuple[list[LoadedGuest], Mapping[str, str]]:
        """Return the guests, and the states of what runs them by name."""
        named = [self._context.guest(self._testbed, name) for name in dict.fromkeys(command.guests)]
        there = await instances(self._context, self._testbed, *named)
        if named:
            chosen = named
            absent = [guest.name for guest in chosen if guest.name not in there]
        else:
            chosen = [guest for guest in self._testbed.runnable if runtime_of(guest).is_in_snapshots(guest)]
            absent = [] if there else [self._context.project]
            chosen = [guest for guest in chosen if guest.name in there]
        if not chosen:
            raise RefusedError(f"no guest of {self._context.project} that is there has snapshots")
        if absent:
            raise RefusedError(
                f"not there, as the testbed is not up: {', '.join(absent)}", hint="kvm-compose up"
            )
        return chosen, {name: each.state for name, each in there.items()}

    async def _check(self, command: Snapshot, guests: list[LoadedGuest], states: Mapping[str, str]) -> None:
        """Whatever would fail for one guest, before it is done to another."""
        for guest in guests:
            runtime_of(guest).check_snapshot(guest, command, states[guest.name])
        reasons: list[tuple[str, str | None]] = []
        known_by = {guest.name: [each.name for each in await self._known(guest)] for guest in guests}
        if command.verb is not SnapshotVerb.CREATE and not command.guests:
            self._check_all_have(command, known_by)
        for guest in guests:
            names = known_by[guest.name]
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

    def _check_all_have(self, command: Snapshot, known_by: Mapping[str, Collection[str]]) -> None:
        """Refuse at once what all guests are to do and only some of them can."""
        having = [name for name, known in known_by.items() if command.name in known]
        if not having:
            raise RefusedError(
                f"no guest of {self._context.project} has a snapshot {command.name}",
                hint="kvm-compose snapshot list",
            )
        if len(having) < len(known_by):
            lacking = first_few([name for name in known_by if name not in having])
            options = " ".join(f"-n {name}" for name in having)
            raise RefusedError(
                f"these have no snapshot {command.name}: {lacking}",
                hint=f"kvm-compose snapshot {command.verb} {options} {command.name}",
            )

    async def _known(self, guest: LoadedGuest) -> Sequence[SnapshotStatus]:
        return await runtime_of(guest).snapshots(self._context, self._testbed, guest)

    async def shown(self, guest: str | None) -> list[SnapshotStatus]:
        """The snapshots of one guest, or of all. Raises RefusedError for an unknown guest."""
        guests = [self._context.guest(self._testbed, guest)] if guest else self._testbed.runnable
        there = await instances(self._context, self._testbed, *guests)
        found: list[SnapshotStatus] = []
        for each in guests:
            if each.name in there:
                found += await self._known(each)
            else:
                found += runtime_of(each).kept_snapshots(self._context, each)
        return found
