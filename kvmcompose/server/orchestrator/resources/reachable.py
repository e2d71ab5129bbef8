"""That a guest which has started is ready: by default, it can be logged in to and has been set up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Resource
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import GUESTS, _marks
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

KINDS = ("reachable",)
AFTER = (GUESTS,)
STAGE = "guests"
ONLY_KNOWN = True
LOST_WITH_NEEDS = True

limit = _marks.limit
settle = _marks.settle


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield it for each guest that is waited for."""
    for each in _marks.wanted(testbed, KINDS[0], _mark):
        yield Resource(ref=each.ref, spec=each.spec, needs=each.needs[:1], guest=each.guest)


def _mark(guest: LoadedGuest) -> str:
    return "yes" if runtime_of(guest).is_waited_for(guest) else ""


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the guests of which that is known."""
    return await _marks.observe(view, host, KINDS[0], wanted, since_start=True)


def compare(wanted: Resource, found: Found) -> Change | None:  # noqa: ARG001
    """A guest that was reachable counts as such until it stops."""
    return None


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Wait for a guest, unless its start has waited already."""
    (change,) = changes
    if change.ref.name in work.waited_for:
        return
    await work.starter.wait(work.testbed.guests[change.ref.name], STAGE)
    _marks.begin(work, change.ref.name)
    _marks.note(work, change)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Forget it."""
    _marks.forget(work, changes)
