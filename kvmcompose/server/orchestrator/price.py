"""What changes cost, and which other guests notice them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from kvmcompose.core.deployable import DeployableGuest
from kvmcompose.core.deployment import Step, StepState
from kvmcompose.core.instance import HostSize
from kvmcompose.core.planned import PlannedHost
from kvmcompose.core.resource import STOPPING, Change, Ref, Resource, Verb
from kvmcompose.server.orchestrator.resources import Provider
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: The parts of a guest's start and stop, as steps are called.
_START, _STOP = ("start", "wait"), ("stop",)


def durations(steps: Iterable[Step]) -> dict[str, float]:
    """Return how long steps took, in seconds, by name. ``steps`` begin with the latest, which counts.

    Of the waits for a guest it is the one after its start: others are short, as the guest was there already.
    """
    found: dict[str, float] = {}
    for step in steps:
        part, _, guest = step.name.partition(":")
        is_sooner = part == "wait" and f"start:{guest}" not in found
        if step.state is StepState.DONE and step.ended is not None and (is_sooner or step.name not in found):
            began, ended = (datetime.fromisoformat(each) for each in (step.started, step.ended))
            found[step.name] = (ended - began).total_seconds()
    return found


class ToSend(msgspec.Struct, frozen=True):
    """What is sent to a host, in bytes: all of it, what stays there, and the room that there is."""

    sent: int = 0
    kept: int = 0
    free: int | None = None


class Touched:
    """Finds the guests that notice a change to something else."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        wanted: Sequence[Resource],
        testbeds: Sequence[LoadedTestbed],
        running: Collection[str],
    ) -> None:
        """``running`` are the guests that are on now."""
        self._providers = providers
        self._testbeds = testbeds
        self._running = running
        self._needing: dict[Ref, list[Resource]] = {}
        for each in wanted:
            for ref in each.needs:
                self._needing.setdefault(ref, []).append(each)

    def by(self, change: Change) -> tuple[str, ...]:
        """Return their names."""
        found: dict[str, None] = {}
        if change.found is not None:  # nobody uses what is not there yet
            provider = self._providers[change.ref.kind]
            for testbed in self._testbeds:
                found |= dict.fromkeys(provider.noticed_by(testbed, change))
        found = dict.fromkeys(each for each in found if each in self._running)
        if change.verb in STOPPING or (change.verb is Verb.UPDATE and change.guest is not None):
            found |= dict.fromkeys(self._dependents(change.ref))
        return tuple(each for each in found if each != change.guest)

    def _dependents(self, ref: Ref) -> Iterable[str]:
        seen, left = {ref}, [ref]
        while left:
            for each in self._needing.get(left.pop(), ()):
                if each.ref not in seen:
                    seen.add(each.ref)
                    left.append(each.ref)
                    if each.guest is not None:
                        yield each.guest


class Price:
    """What changes take of hosts, and how long they take.

    ``before`` has the guests that are on, by host and name, as they were brought up.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        changes: Sequence[Change],
        before: Mapping[str, Mapping[str, DeployableGuest]],
        testbed: LoadedTestbed,
    ) -> None:
        """``changes`` are those that are carried out."""
        self._providers = providers
        self._changes = changes
        self._before = before
        self._testbed = testbed
        self._after = self._afterwards()

    def _afterwards(self) -> dict[str, dict[str, DeployableGuest]]:
        after = {host: dict(guests) for host, guests in self._before.items()}
        for change in self._changes:
            name = change.guest
            if name is None or not self._providers[change.ref.kind].RUNS:
                continue
            if change.found is not None:
                after.get(change.found.ref.host, {}).pop(name, None)
            guest = self._testbed.guests.get(name)
            if change.verb is not Verb.REMOVE and guest is not None and guest.run is not None:
                after.setdefault(change.ref.host, {})[name] = guest.run
        return after

    def booting(self, host: str) -> list[Change]:
        """Return the changes for which a guest starts on a host."""
        return [
            change
            for change in self._changes
            if change.ref.host == host and self._providers[change.ref.kind].boots(change)
        ]

    def of_host(self, name: str, facts: HostSize | None, transfer: ToSend) -> PlannedHost:
        """Return what changes take of a host."""
        before, after = self._before.get(name, {}).values(), self._after.get(name, {}).values()
        return PlannedHost(
            name=name,
            memory_mb=facts.memory_mb if facts is not None else None,
            cpus=facts.cpus if facts is not None else None,
            memory_mb_before=sum(each.memory_mb for each in before),
            memory_mb_after=sum(each.memory_mb for each in after),
            cpus_before=sum(each.cpus for each in before),
            cpus_after=sum(each.cpus for each in after),
            boots=len(self.booting(name)),
            bytes_to_send=transfer.sent,
            disk_bytes=transfer.kept,
            disk_free=transfer.free,
        )

    def seconds(self, durations: Mapping[str, float], limits: Mapping[str, int], stops: int) -> float | None:
        """Return about how long guests take to stop and to start, in seconds; None if nothing is known.

        ``durations`` are the seconds that steps took before, by name. ``limits`` are how many may boot at a
        time, by host; ``stops`` how many may stop at a time.
        """
        starts = _Times(durations, _START)
        ends = _Times(durations, _STOP)
        found = []
        for host, limit in limits.items():
            booting = [starts.of(change.guest or change.ref.name) for change in self.booting(host)]
            stopping = [
                ends.of(change.guest or "")
                for change in self._changes
                if self._providers[change.ref.kind].RUNS
                and change.verb in STOPPING
                and change.found is not None
                and change.found.ref.host == host
            ]
            if any(each is None for each in booting):
                return None
            found.append(_side_by_side(booting, limit) + _side_by_side(stopping, stops))
        return max(found, default=0.0)


def _side_by_side(times: Iterable[float | None], limit: int) -> float:
    known = [each for each in times if each is not None]
    return max(sum(known) / limit, max(known, default=0.0))


class _Times:
    """How long a part of guests' lives took: that of the guest, else the median of the others."""

    def __init__(self, durations: Mapping[str, float], parts: Collection[str]) -> None:
        self._known: dict[str, float] = {}
        for name, seconds in durations.items():
            part, _, guest = name.partition(":")
            if part in parts:
                self._known[guest] = self._known.get(guest, 0.0) + seconds
        self._usual = statistics.median(self._known.values()) if self._known else None

    def of(self, guest: str) -> float | None:
        return self._known.get(guest, self._usual)
