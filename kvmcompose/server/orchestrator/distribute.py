"""Sending the hosts of a testbed what their guests need, and nothing that they have.

Images, unmodified ones and golden ones, are sent as blobs: once per host. Seeds and disks belong to one guest
each. A disk is sent once; from then on what its guest writes is on its host, and only there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import FileSize
from kvmcompose.hosts.transfer_plan import Digests, note_stale
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.delivery import Delivery
from kvmcompose.server.orchestrator.disk_places import DiskPlaces
from kvmcompose.server.orchestrator.host_transfers import HostTransfers, TransferTask
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed


class Distribution:
    """The transfers of a testbed. Look at all hosts before anything is sent."""

    def __init__(
        self,
        context: Context,
        testbed: LoadedTestbed,
        hosts: Mapping[str, HostDrivers],
        *,
        provision: bool,
    ) -> None:
        """``hosts`` are those of the testbed, and those that have left it: guests may have data there."""
        self._context = context
        self.testbed = testbed
        self._digests = Digests(testbed.folder)
        self._provision = provision
        #: Where disks are that are not where their guests are placed.
        self.places = DiskPlaces()
        #: Sizes of disks that move, in bytes: what is sent to a host for them, and the room that they take.
        self.moving: dict[str, FileSize] = {}
        task = TransferTask(context=context, testbed=testbed, digests=self._digests, provision=provision)
        self._main = context.host(testbed.main_host)
        self.main = self._main.name
        self._others = {
            name: HostTransfers(task, drivers, drivers.blobs)
            for name, drivers in hosts.items()
            if name != testbed.main_host.name and drivers.blobs is not None
        }
        #: A member's main host is sent what all guests need, before any other host is.
        self._delivery = (
            Delivery(task, self._main, self._main.blobs) if self._main.blobs is not None else None
        )

    def to(self, name: str) -> HostTransfers | None:
        """Return the transfers to a host; None for a main host that uses the project folder itself."""
        return self._delivery if name == self._main.name else self._others.get(name)

    def weigh(self, source: str, target: str, size: FileSize) -> None:
        """Count a disk that moves: all go by way of the main host."""
        for host in {self.main, target} - {source}:
            known = self.moving.get(host, FileSize(0, 0))
            taken = size.allocated if host == target else 0
            self.moving[host] = FileSize(known.length + size.length, known.allocated + taken)

    def arrive(self, places: DiskPlaces) -> None:
        """Take in where disks are, before hosts are looked at. New disks do not depend on old ones."""
        self.places = DiskPlaces(stale=places.stale, left_over=places.left_over)
        if not self._provision:
            self.places = places
        for name, other in self._others.items():
            other.expect(self.places.incoming(name, self.testbed.disk_owners))

    def digest_of(self, path: Path) -> str:
        """Return the SHA-256 of a file of the main host. Reads it: call it in a thread. Raises OSError."""
        return self._digests.of(str(path.resolve()))

    async def recheck(self) -> None:
        """Look at files again: golden images may have been rebuilt."""
        await in_thread(self._digests.recheck)

    async def keep(self) -> None:
        """Remember the digests of files."""
        await in_thread(self._digests.keep)

    def is_to_be_put(self, guest: LoadedGuest) -> bool:
        """Whether the main host has not all disks of a guest, or will be sent another one."""
        return any(map(self._is_to_be_put, guest.disks))

    def _is_to_be_put(self, disk: str) -> bool:
        return self._delivery is not None and self._delivery.lacks(disk)

    # -- disks, wherever they are

    def paths(self, guest: LoadedGuest) -> list[Path]:
        """Return the paths of a guest's disks on its host."""
        folder = self._context.folder_on(self._context.host_of(guest, self.testbed))
        return [folder / disk for disk in guest.disks]

    async def has_data(self, guest: LoadedGuest) -> bool:
        """Whether a guest has written to a disk of its own. One that is no image tells nothing of that."""
        return any([await self._has_data(guest, disk) for disk in guest.image_disks])

    async def _has_data(self, guest: LoadedGuest, disk: str) -> bool:
        other = self._others.get(guest.state.testbed_host)
        if disk in self.places.moving:
            return True
        if other is not None and other.has(disk):
            return await other.has_data(disk)
        if self._is_to_be_put(disk):
            return False
        # the disk is on the main host, and is sent with all its data
        return not await self._main.disks.pristine(self.testbed.folder / disk)

    async def renew(self, guest: LoadedGuest) -> None:
        """Give a guest empty disks: all data on them is lost. One without a backing file stays."""
        for disk in guest.image_disks:
            if await in_thread(self.testbed.source.backing_file, disk) is not None:
                await self._renew(guest, disk)

    async def _renew(self, guest: LoadedGuest, disk: str) -> None:
        other = self._others.get(guest.state.testbed_host)
        source = self.places.moving.get(disk)
        if source is not None:
            await in_thread(note_stale, self.testbed.folder, source, disk, stale=True)
            if source in self._others:
                await self._others[source].drop(disk)
            moving = {path: host for path, host in self.places.moving.items() if path != disk}
            self.arrive(msgspec.structs.replace(self.places, moving=moving))
        if other is not None:
            await other.drop(disk)  # a new one is sent
        here = self.testbed.folder / disk
        if other is None or not await self._main.disks.pristine(here):
            await self._main.disks.reset_overlay(here)
        if source is not None:
            await in_thread(note_stale, self.testbed.folder, source, disk, stale=False)
