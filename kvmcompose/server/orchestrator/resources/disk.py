"""Disks that guests have written to: they move with their guests, and what they leave behind is removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator import host_transfers
from kvmcompose.server.orchestrator.disk_moves import DiskMoves
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("disk",)
AFTER = ("files",)
STAGE = host_transfers.STAGE
LOOKS_AT_FILES = True

#: The state of a copy that is not to be used: its disk has moved on, or it has not arrived as a whole.
_STALE = "stale"


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the disks of guests that are started."""
    for guest in testbed.runnable:
        if guest.run is None or guest.run.disk is None:
            continue
        host = guest.state.testbed_host
        needs = () if host == testbed.main_host.name else (Ref("files", host, host),)
        yield Resource(ref=Ref(KINDS[0], guest.name, host), spec=None, needs=needs, guest=guest.name)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the disks on a host, and copies that are not to be used.

    A disk that no guest has written to counts as being where it is wanted: ``files`` sends it.
    """
    if view.files is None:
        return ()
    await view.disks()
    places = view.files.places
    found = []
    testbed = view.files.testbed
    here = [guest.name for guest in testbed.by_host.get(host.name, ())]
    for name in dict.fromkeys([*here, *places.moving, *places.stale]):
        guest = testbed.guests[name]
        if guest.run is None or guest.run.disk is None or guest.state.is_golden_image:
            continue
        placed, ref = guest.state.testbed_host, Ref(KINDS[0], guest.name, host.name)
        stale = host.name in places.stale.get(guest.name, ())
        if host.name == places.moving.get(guest.name, placed):
            # on another host it is sent as if nothing was there
            state = _STALE if stale and host.name == view.files.main else ""
            found.append(Found(ref=ref, state=state, guest=guest.name))
        elif stale and host.name != placed:
            found.append(Found(ref=ref, state=_STALE, guest=guest.name))
    return found


def compare(wanted: Resource, found: Found) -> Change | None:
    """A copy that is not to be used is replaced by an empty disk."""
    if found.state != _STALE:
        return None
    reason = Reason(ReasonCode.STATE, before=_STALE)
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return why disks cannot move."""
    return await DiskMoves(work).refusals([each for each in changes if each.verb is Verb.MOVE])


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Move a disk, or remove what it has left behind."""
    (change,) = changes
    guest = work.testbed.guests[change.ref.name]
    if change.verb is Verb.MOVE:
        await DiskMoves(work).move(guest)
    else:
        await DiskMoves(work).drop(guest, change.ref.host)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove a copy that is not to be used. A disk that moves stays until it has arrived."""
    (change,) = changes
    if change.verb is Verb.REMOVE:
        await DiskMoves(work).drop(work.testbed.guests[change.ref.name], host.name)
