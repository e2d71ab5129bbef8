"""Disks and copies of volumes that no guest has any more: they are kept and named until they are removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from kvmcompose.core.deployment import Level
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.names import first_few
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import Inventory
from kvmcompose.hosts.transfer_plan import forget_sent, note_left, read_sent
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.orchestrator.volumes import volumes_on


async def name_left(context: Context, before: LoadedTestbed, after: LoadedTestbed, log: ActionLog) -> None:
    """Name the disks and volumes that guests have no longer, and record the disks on the main host."""
    known = after.disk_owners.keys()
    main = after.main_host.name
    left: set[str] = set()
    for disk, guest in before.disk_owners.items():
        if disk in known:
            continue
        host = guest.state.testbed_host
        if host == main:
            left.add(disk)
            if await _is_empty(context, before, guest, disk):
                continue  # the build removes it
        is_gone = guest.name not in after.guests
        is_shared = disk in guest.shared_disks
        if host == main and context.member is None:
            name = guest.name if is_gone and not is_shared else disk.rpartition("/")[2]
            removes = f"kvm-compose clean --left-over {name} removes it"
        else:  # clean is of the project folder
            removes = "kvm-compose down --purge removes it, with all other disks of the testbed"
        which = "the" if is_gone and len(guest.disks) == 1 else "a"
        what = "a disk that guests shared" if is_shared else f"{which} disk of {guest.name}"
        log.say(f"{what} stays: {disk} on {host}; {removes}")
    for text in _volumes_left(before, after):
        log.say(text, Level.WARNING)
    await in_thread(note_left, context.folder, main, left, known)


async def _is_empty(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, disk: str) -> bool:
    """Return whether nothing was written to a disk that guests do not share, as far as that can be seen."""
    if context.member is not None or disk not in guest.image_disks:
        return False
    drivers = context.host_of(guest, testbed)
    try:
        return await drivers.disks.pristine(context.folder_on(drivers) / disk)
    except KvmComposeError:
        return False


def _volumes_left(before: LoadedTestbed, after: LoadedTestbed) -> Iterator[str]:
    """Yield the copies of volumes that no host has a use for; otherwise the host that is sent one says so."""
    used = {volume for host in after.state.testbed_hosts for volume in volumes_on(after, host)}
    for host in before.state.testbed_hosts:
        for volume in volumes_on(before, host):
            if volume not in used:
                yield (
                    f"{volume} on {host} stays there, with what guests have written to it;"
                    " kvm-compose down --purge removes it"
                )


def disks_left(folder: Path, host: str) -> list[str]:
    """Return the recorded disks of removed guests on the main host.

    A lab from elsewhere may contain the record: other paths are left out.
    """
    return [path for path in sorted(_left(folder, host)) if _is_disk(path)]


def _left(folder: Path, host: str) -> Iterable[str]:
    known = read_sent(folder).get(host)
    return known.left if known is not None else ()


def _is_disk(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return parts[:1] == ("artefacts",) and ".." not in parts and "\0" not in path


async def leave(context: Context, host: HostDrivers, held: Inventory, log: ActionLog) -> None:
    """Remove the project's folder on a host that has left the testbed, unless it has disks."""
    disks = sorted(path for path in held.delivered.keys() - held.linked if not path.endswith(".iso"))
    if disks:
        log.say(f"{host.name} has left the testbed; disks stay there: {first_few(disks, 3)}", Level.WARNING)
    elif host.blobs is not None:
        await shielded(host.blobs.clear(context.project))
        await in_thread(forget_sent, context.folder, host.name)
