"""Disks that guests have written to: they move with their guests, and what they leave behind is removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator import host_transfers
from kvmcompose.server.orchestrator.disk_moves import DiskMoves
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

KINDS = ("disk",)
AFTER = ("files",)
STAGE = host_transfers.STAGE
LOOKS_AT_FILES = True

#: The state of a copy that is not to be used: its disk has moved on, or it has not arrived as a whole.
_STALE = "stale"


def name_of(guest: LoadedGuest, path: str) -> str:
    """Return the name of a disk of a guest: that of the guest, or for further disks the path."""
    return guest.name if path == guest.disks[0] and path not in guest.shared_disks else path


def _path_of(testbed: LoadedTestbed, name: str) -> str:
    guest = testbed.guests.get(name)
    return guest.disks[0] if guest is not None else name


def _guest_of(guest: LoadedGuest, path: str) -> str | None:
    """Return the name of the guest that a disk belongs to, None for one that guests share."""
    return None if path in guest.shared_disks else guest.name


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the disks of guests that are started."""
    for guest in testbed.runnable:
        host = guest.state.testbed_host
        needs = () if host == testbed.main_host.name else (Ref("files", host, host),)
        for path in guest.disks:
            ref = Ref(KINDS[0], name_of(guest, path), host)
            yield Resource(ref=ref, spec=None, needs=needs, guest=_guest_of(guest, path))


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
    here = [path for guest in testbed.by_host.get(host.name, ()) for path in guest.disks]
    for path in dict.fromkeys([*here, *places.moving, *places.stale]):
        guest = testbed.disk_owners[path]
        if guest.state.is_golden_image:
            continue
        placed, ref = guest.state.testbed_host, Ref(KINDS[0], name_of(guest, path), host.name)
        stale = host.name in places.stale.get(path, ())
        if host.name == places.moving.get(path, placed):
            # on another host it is sent as if nothing was there
            state = _STALE if stale and host.name == view.files.main else ""
            found.append(Found(ref=ref, state=state, guest=_guest_of(guest, path)))
        elif stale and host.name != placed:
            found.append(Found(ref=ref, state=_STALE, guest=_guest_of(guest, path)))
    return found


def compare(wanted: Resource, found: Found) -> Change | None:
    """A copy that is not to be used is replaced by an empty disk."""
    if found.state != _STALE:
        return None
    reason = Reason(ReasonCode.STATE, before=_STALE)
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return why disks cannot move."""
    moves = [_path_of(work.testbed, each.ref.name) for each in changes if each.verb is Verb.MOVE]
    owners = work.testbed.disk_owners
    shared = [path for path in moves if path in owners[path].shared_disks]
    return [
        *(await DiskMoves(work).refusals([path for path in moves if path not in shared])),
        *(_of_shared(work, path) for path in shared),
    ]


def _of_shared(work: Work, path: str) -> Refusal:
    files = work.view.files
    assert files is not None  # noqa: S101 (there are moves only where files were looked at)
    source = files.places.moving[path]
    sharing = [guest.name for guest in work.testbed.runnable if path in guest.shared_disks]
    return (
        f"{path} is on {source}, and a disk that guests share does not move: {first_few(sharing)}",
        f"pin them to {source}, or give up what is on it: kvm-compose up --provision",
    )


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Move a disk, or remove what it has left behind."""
    (change,) = changes
    path = _path_of(work.testbed, change.ref.name)
    if change.verb is Verb.MOVE:
        await DiskMoves(work).move(path)
    else:
        await DiskMoves(work).drop(path, change.ref.host)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove a copy that is not to be used. A disk that moves stays until it has arrived."""
    (change,) = changes
    if change.verb is Verb.REMOVE:
        await DiskMoves(work).drop(_path_of(work.testbed, change.ref.name), host.name)
