"""Carries changes out, kind by kind: what goes, goes first, in reverse order; then what comes, in order.

So a guest that restarts is off before a bridge of its changes, names and addresses are free before others
take them, and nothing is taken away on which something else still depends. What needs a resource of its own
kind, or of a later one, is made after it; what goes, goes before what it came after.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Protocol

from kvmcompose.core.resource import STOPPING, Change, Ref, Verb

#: Runs jobs side by side, at most so many at a time; returns which of them succeeded.
Together = Callable[[Sequence[Callable[[], Awaitable[None]]], int], Awaitable[list[bool]]]


class Kind(Protocol):
    """What the walk knows of a kind of resources."""

    #: Whether changes on one host are carried out in one call.
    BATCH: bool
    #: Whether removals come with other changes, in the same call, so that there is nothing in between.
    AT_ONCE: bool

    def limit(self, host: str, *, removing: bool) -> int:
        """Return how many calls may run at a time on a host."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make the resources of one host what they should be. Raises StepFailedError."""

    async def remove(self, changes: Sequence[Change]) -> None:
        """Take resources of one host away, or what is in the way of a change. Raises StepFailedError."""


def in_order(after: Mapping[str, Collection[str]]) -> list[str]:
    """Return the kinds so that each comes after those that it needs. ``after`` names these."""
    known = {kind: sorted(set(needed) & after.keys()) for kind, needed in sorted(after.items())}
    return list(TopologicalSorter(known).static_order())


class Walk:
    """One walk over changes.

    ``order`` are the kinds in order, ``stages`` the name of the stage of each. What needs something that
    failed is left out. After a stage with a failure nothing is begun, unless ``keep_going``.
    """

    def __init__(
        self,
        changes: Sequence[Change],
        kinds: Mapping[str, Kind],
        stages: Mapping[str, str],
        together: Together,
        *,
        keep_going: bool,
        failed: set[Ref],
    ) -> None:
        """``failed`` receives what could not be done, and what was left out as it needs that.

        What is in it already is not among the changes.
        """
        self._changes = changes
        self._kinds = kinds
        self._stages = stages
        self._together = together
        self._keep_going = keep_going
        self.failed = failed
        #: What was not begun, as it needs something that failed.
        self.left_out: set[Ref] = set()
        self._failed_before = frozenset(failed)

    async def run(self) -> bool:
        """Carry the changes out; whether all were. When cancelled, each call has ended when this raises."""
        order = list(self._kinds)
        going = _by_kind(change for change in self._changes if change.verb in STOPPING)
        coming = _by_kind(change for change in self._changes if change.verb is not Verb.REMOVE)
        for kind in order:
            if self._kinds[kind].AT_ONCE and coming[kind]:
                coming[kind] += [each for each in going[kind] if each.verb is Verb.REMOVE]
                going[kind] = [each for each in going[kind] if each.verb is not Verb.REMOVE]
        if not await self._going(order, going):
            return False
        while any(coming.values()):
            if not await self._round(order, coming):
                return False
        return not self.failed

    async def _going(self, order: Sequence[str], going: dict[str, list[Change]]) -> bool:
        """Take away what goes; whether all of it went."""
        failed: set[str] = set()
        waits = True
        while left := sum(map(len, going.values())):
            waited_for = _come_before(change for changes in going.values() for change in changes)
            held = False
            for kind in reversed(order):
                while ready := [
                    each
                    for each in going[kind]
                    # what is below something that waits stays, unless that waits for it
                    if (not held or (each.found is not None and each.found.after))
                    and not (waits and _found(each) in waited_for)
                ]:
                    mine = [each for each in ready if _host(each, removing=True) not in failed]
                    await self._kind(kind, mine, removing=True)
                    # what is left on a host needs what is below it there
                    failed |= {_host(change, removing=True) for change in mine if change.ref in self.failed}
                    gone = {change.ref for change in ready}
                    going[kind] = [each for each in going[kind] if each.ref not in gone]
                    waited_for = _come_before(change for changes in going.values() for change in changes)
                held = held or bool(going[kind])
            # where guests wait for each other, and the rest for them, nothing is gained by waiting
            waits = sum(map(len, going.values())) < left
        return self.failed == self._failed_before

    async def _round(self, order: Sequence[str], coming: dict[str, list[Change]]) -> bool:
        """Make what can be made, kind by kind, and leave in ``coming`` what needs something of it first.

        That is what needs a resource of its own kind, or of a later one: a guest that depends on another. A
        call of a ``BATCH`` kind takes its own kind as it is. Whether the next round may begin.
        """
        left = {change.ref for changes in coming.values() for change in changes}
        # where all wait for each other, nothing is gained by waiting
        waits = any(self._is_ready(change, left) for changes in coming.values() for change in changes)
        for kinds in _by_stage(order, self._stages):
            for kind in kinds:
                while ready := [each for each in coming[kind] if not waits or self._is_ready(each, left)]:
                    left -= {change.ref for change in ready}
                    coming[kind] = [each for each in coming[kind] if each.ref in left]
                    await self._kind(kind, ready, removing=False)
            if self.failed and not self._keep_going:
                return False
        return True

    def _is_ready(self, change: Change, left: Collection[Ref]) -> bool:
        """Return whether nothing that a change needs is yet to be made."""
        needs = _needs(change)
        own = change.ref.kind if self._kinds[change.ref.kind].BATCH else None
        return all(ref.kind == own or ref == change.ref or ref not in left for ref in needs)

    async def _kind(self, kind: str, changes: Sequence[Change], *, removing: bool) -> None:
        """Carry out the changes of one kind, on all hosts side by side."""
        provider = self._kinds[kind]
        call = provider.remove if removing else provider.apply
        ready = [change for change in changes if removing or not self._is_blocked(change)]
        self.left_out |= {change.ref for change in changes} - {change.ref for change in ready}
        self.failed |= self.left_out
        by_host: dict[str, list[Change]] = {}
        for change in ready:
            by_host.setdefault(_host(change, removing=removing), []).append(change)

        async def on_host(host: str, mine: list[Change]) -> None:
            groups = [mine] if provider.BATCH else [[each] for each in mine]
            jobs = [lambda group=group: call(group) for group in groups]
            good = await self._together(jobs, max(1, provider.limit(host, removing=removing)))
            for group, each in zip(groups, good, strict=True):
                if not each:
                    self.failed |= {change.ref for change in group}

        hosts = [lambda host=host, mine=mine: on_host(host, mine) for host, mine in by_host.items()]
        await self._together(hosts, len(hosts))

    def _is_blocked(self, change: Change) -> bool:
        return change.ref in self.failed or not self.failed.isdisjoint(_needs(change))


def needing(changes: Sequence[Change], failed: Collection[Ref]) -> set[Ref]:
    """Return the changes that need something that failed, or something that needs that."""
    found = set(failed)
    while more := {each.ref for each in changes if not found.isdisjoint(_needs(each))} - found:
        found |= more
    return found - set(failed)


def _needs(change: Change) -> tuple[Ref, ...]:
    """Return what comes before a change."""
    return (*change.wanted.needs, *change.wanted.after) if change.wanted is not None else ()


def _found(change: Change) -> Ref:
    return change.found.ref if change.found is not None else change.ref


def _come_before(changes: Iterable[Change]) -> set[Ref]:
    """Return what goes later than some of these changes."""
    return {ref for each in changes if each.found is not None for ref in each.found.after}


def _by_kind(changes: Iterable[Change]) -> defaultdict[str, list[Change]]:
    found: defaultdict[str, list[Change]] = defaultdict(list)
    for change in changes:
        found[change.ref.kind].append(change)
    return found


def _host(change: Change, *, removing: bool) -> str:
    if removing and change.found is not None:
        return change.found.ref.host
    return change.ref.host


def _by_stage(order: Sequence[str], stages: Mapping[str, str]) -> list[list[str]]:
    """Group neighbours of the same stage."""
    groups: list[list[str]] = []
    for kind in order:
        if groups and stages[groups[-1][0]] == stages[kind]:
            groups[-1].append(kind)
        else:
            groups.append([kind])
    return groups
