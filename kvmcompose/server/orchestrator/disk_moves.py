"""Moves disks with data between hosts. A copy is complete and recorded before the other one is removed.

All goes by way of the main host. Whatever is interrupted, the disk is where it was before until the new copy
is recorded, and what has arrived until then is not used (``disk_places``).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects import private
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import Blob, FileSize
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.transfer_plan import needed_files, note_moved, note_stale
from kvmcompose.images.qcow2 import ImageHeader
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.distribute import Distribution
from kvmcompose.server.orchestrator.host_transfers import STAGE
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.sending import mib
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import PRIVATE, LoadedGuest

_NEW_DISK = "a new disk loses what the guest wrote: kvm-compose up --provision"


class DiskMoves:
    """The moves of one action."""

    def __init__(self, work: Work) -> None:
        files = work.view.files
        assert files is not None  # noqa: S101 (there are disks only where files were looked at)
        self._files: Distribution = files
        self._work = work
        self._context = work.context
        self._project = work.context.project
        self._main = work.view.hosts[files.main]

    # -- before anything is changed

    async def refusals(self, moves: Sequence[str]) -> list[Refusal]:
        """Return why disks (their paths) cannot move, or why it is not known which one to use."""
        found, arriving = self._unknown(), dict[str, int]()
        for path in moves:
            guest = self._owner(path)
            source, target = self._files.places.moving[path], guest.state.testbed_host
            try:
                size = await self._size(path, source)
                if source != self._main.name:
                    await self._check_source(path, source)
                    arriving[self._main.name] = max(arriving.get(self._main.name, 0), size.length)
            except (KvmComposeError, OSError) as error:
                hint = error.hint if isinstance(error, KvmComposeError) else None
                found.append((f"{guest.name} cannot move from {source}: {error}", hint))
                continue
            self._files.weigh(source, target, size)
            if target != self._main.name:
                arriving[target] = arriving.get(target, 0) + size.allocated
        return [*found, *await self._check_room(arriving)]

    def _unknown(self) -> list[Refusal]:
        places, scope = self._files.places, self._work.up.guests
        found: list[Refusal] = []
        for path, hosts in places.contested.items():
            name = self._owner(path).name
            if not scope or name in scope:
                hint = f"pin {name} to the host whose disk counts, or: kvm-compose up --provision"
                found.append((f"{name} has different disks with data, on {' and '.join(hosts)}", hint))
        for path, host in places.lost.items():
            name = self._owner(path).name
            if not scope or name in scope:
                why = f"{self._named(path)} is on {host}, which is no host of the testbed any more"
                found.append((why, f"add the host again, or give it up: kvm-compose up --abandon {host}"))
        return found

    async def _check_room(self, arriving: Mapping[str, int]) -> list[Refusal]:
        found: list[Refusal] = []
        for host, needed in arriving.items():
            free = await self._room(host)
            if needed > free:
                sizes = f"{mib(needed)} needed, {mib(free)} free"
                found.append((f"{host}: not enough free space for disks that move: {sizes}", None))
        return found

    async def _size(self, path: str, source: str) -> FileSize:
        blobs = self._work.view.hosts[source].blobs
        if source != self._main.name and blobs is not None:
            return await blobs.measure(self._project, path)
        status = await in_thread((self._context.folder / path).stat)
        return FileSize(status.st_size, status.st_blocks * 512)

    async def _room(self, host: str) -> int:
        if host == self._main.name:
            return (await in_thread(shutil.disk_usage, self._context.folder)).free
        return (await self._work.view.inventory(self._work.view.hosts[host])).room

    async def _check_source(self, path: str, source: str) -> None:
        """Raise DriverError for a disk on another host that would not fit on what it is an overlay on."""
        host = self._work.view.hosts[source]
        if not self._is_image(path):
            return
        header = await host.disks.header(self._path(path, host))
        _check_header(header, await self._built(path))
        delivered = (await self._work.view.inventory(host)).delivered
        for below, digest in (await in_thread(self._below, path)).items():
            if delivered.get(below) != digest:
                raise DriverError(f"{below}, its backing file, is another one there", hint=_NEW_DISK)

    def _below(self, disk: str) -> dict[str, str]:
        """Return the digests of the backing files that a disk is to have. Raises OSError."""
        run = self._owner(disk).run
        assert run is not None  # noqa: S101 (only guests that run have a disk)
        member, here = self._context.member, self._context.location
        needed = needed_files(here, [run], member)
        golden = {path for each in self._work.testbed.golden for path in each.disks}
        found = {}
        for path in needed[disk].below:
            if member is None or path in golden:
                found[path] = self._files.digest_of((self._context.folder / path).resolve())
            else:
                found[path] = member.digest(here / path)
        return found

    async def _built(self, path: str) -> ImageHeader:
        return await self._main.disks.header(self._path(path, self._main))

    # -- moving

    async def move(self, path: str) -> None:
        """Move a disk to where its guest is placed. The guest is off. Raises StepFailedError."""
        guest = self._owner(path)
        source, target = self._files.places.moving.get(path), guest.state.testbed_host
        if source is None:
            return  # it was made new meanwhile
        with self._work.step(STAGE, f"move:{self._step(path)}", guest=guest.name, host=target) as step:
            await in_thread(note_stale, self._context.folder, target, path, stale=True)
            try:
                blob = await self._content(path, source)
            except OSError as error:
                raise DriverError(f"cannot copy {self._named(path)} from {source}: {error}") from error
            if target == self._main.name:
                await self._put_here(path, source, blob)
            else:
                await self._put_there(path, source, blob, step)
            if self._main.name not in (source, target):
                await shielded(self._main.disks.remove(blob.source))
            step.say(f"{self._named(path)} moved from {source} to {target}")

    async def _content(self, path: str, source: str) -> Blob:
        """Return the content of a disk as a file of the main host."""
        host, name = self._work.view.hosts[source], self._moving_name(path)
        if host is self._main or host.blobs is None:
            await self._files.recheck()
            here = self._path(path, self._main)
            return Blob(await in_thread(self._files.digest_of, here), here)
        folder = self._context.folder / PRIVATE
        await in_thread(private.refuse_foreign, folder)
        size = await host.blobs.measure(self._project, path)
        digest = await host.blobs.digest(self._project, path, size)
        blob = Blob(digest, folder / f"moving-{name}-{digest[:16]}")
        await in_thread(_remove_others, blob.source, name)
        await host.blobs.fetch(self._project, path, blob, size, lambda _count: None)
        if self._is_image(path):
            _check_header(await self._main.disks.header(blob.source), await self._built(path))
        return blob

    async def _put_here(self, path: str, source: str, blob: Blob) -> None:
        """Put a disk in the project folder of the main host."""
        if self._is_image(path):
            there, built = await self._main.disks.header(blob.source), await self._built(path)
            if there.virtual_size != built.virtual_size:
                await shielded(self._main.disks.grow(blob.source, built.virtual_size))
        await shielded(self._main.disks.replace(self._path(path, self._main), blob.source))
        await self._finish(path, source, None)

    async def _put_there(self, path: str, source: str, blob: Blob, step: RunningStep) -> None:
        """Send a disk to another host."""
        guest = self._owner(path)
        name = guest.state.testbed_host
        host, transfers = self._work.view.hosts[name], self._files.to(name)
        assert host.blobs is not None  # noqa: S101 (only the main host may have none)
        assert transfers is not None  # noqa: S101 (likewise)
        await host.blobs.put(self._project, {path: blob}, lambda _count: None)
        await self._finish(path, source, blob.digest)
        await self._files.recheck()  # the main host's disk may be an empty one now
        await transfers.take_in(guest, path, blob.digest, step)

    async def _finish(self, path: str, source: str, digest: str | None) -> None:
        """Record where a disk is now, and remove it where it was."""
        target = self._owner(path).state.testbed_host
        await in_thread(note_moved, self._context.folder, path, source, target, digest)
        await self.drop(path, source)

    async def drop(self, path: str, host: str) -> None:
        """Remove a copy that is not to be used. On the main host an empty disk takes its place."""
        if host == self._main.name:
            await shielded(self._empty(path))
        else:
            there = self._work.view.hosts[host]
            await shielded(there.disks.remove(self._path(path, there)))
        await in_thread(note_stale, self._context.folder, host, path, stale=False)

    async def _empty(self, path: str) -> None:
        if not self._is_image(path):
            return  # it does not tell what it was made from
        here, member = self._path(path, self._main), self._context.member
        if await self._main.disks.pristine(here) or (await self._built(path)).backing_file is None:
            return  # without a backing file it may be a copy of an image
        if member is None or self._main.blobs is None:
            await self._main.disks.reset_overlay(here)
            return
        built = self._context.location / path
        blob = Blob(await in_thread(member.digest, built), built)
        await self._main.blobs.put(self._project, {path: blob}, lambda _count: None)

    # -- names

    def _owner(self, path: str) -> LoadedGuest:
        return self._work.testbed.disk_owners[path]

    def _is_image(self, path: str) -> bool:
        return path in self._owner(path).image_disks

    def _is_first(self, path: str) -> bool:
        return path == self._owner(path).disks[0]

    def _named(self, path: str) -> str:
        guest = self._owner(path)
        return f"the disk of {guest.name}" if self._is_first(path) else f"the disk {path} of {guest.name}"

    def _step(self, path: str) -> str:
        return self._owner(path).name if self._is_first(path) else PurePosixPath(path).name

    def _moving_name(self, path: str) -> str:
        return self._owner(path).state.identity if self._is_first(path) else PurePosixPath(path).name

    def _path(self, path: str, host: HostDrivers) -> Path:
        return self._context.folder_on(host) / path


def _check_header(found: ImageHeader, built: ImageHeader) -> None:
    """Raise DriverError for a disk that names other files than the one that was built, or is larger.

    The host that it comes from may be another user's: QEMU opens whatever a disk names.
    """
    names = (found.format, found.backing_file, found.backing_format, found.data_file)
    if names != (built.format, built.backing_file, built.backing_format, built.data_file):
        raise DriverError(
            "its disk there has another backing file than the one that was built", hint=_NEW_DISK
        )
    if found.virtual_size > built.virtual_size:
        raise DriverError("its disk there is larger than the one that was built", hint=_NEW_DISK)


def _remove_others(path: Path, name: str) -> None:
    """Remove what earlier moves of the disk have left, if it has changed since."""
    ours = re.compile(rf"moving-{re.escape(name)}-[0-9a-f]{{16}}(\.part)?")
    for each in path.parent.iterdir():
        if ours.fullmatch(each.name) and each.name not in (path.name, f"{path.name}.part"):
            each.unlink()
