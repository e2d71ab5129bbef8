"""Sending the main host what a member's testbed needs, from the member's folder (decision 16)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kvmcompose.hosts.blob_store import BlobStore, Inventory
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.growth import WantedFile
from kvmcompose.server.orchestrator.host_transfers import HostTransfers, TransferTask
from kvmcompose.server.orchestrator.testbed import LoadedGuest


class Delivery(HostTransfers):
    """Transfers to the main host of a member's testbed: what all guests need, from the member's folder."""

    def __init__(self, task: TransferTask, drivers: HostDrivers, blobs: BlobStore) -> None:
        super().__init__(task, drivers, blobs)
        self._guests = list(task.testbed.guests.values())
        self.golden = {}  # they are made here, afterwards
        self._golden = frozenset(path for guest in task.testbed.golden for path in guest.disks)
        self._reader = task.context.member
        self._to_come: set[str] = set()

    async def look(self, running: Collection[str], held: Inventory) -> list[str]:
        """As for any host."""
        lacking = await super().look(running, held)
        wanted = await self._wanted(first=True)
        self._to_come = {path for path, each in wanted.items() if self._is_to_be_put(path, each)}
        return lacking

    def _usable(self, held: Inventory) -> dict[str, str]:
        """Everything: what is not to be used is reset where it is."""
        return dict(held.delivered)

    def _elsewhere(self) -> list[LoadedGuest]:
        """None: it has the disks of all guests."""
        return []

    def lacks(self, disk: str) -> bool:
        """Whether the host has no such disk, or will be sent another one."""
        return disk in self._to_come

    async def has_data(self, disk: str) -> bool:
        """Golden images do not count: scripts set them up again; clones in the way are found elsewhere."""
        return disk not in self._golden and await super().has_data(disk)

    async def _wanted(
        self, but: Collection[str] = (), *, first: bool = False, only: str | None = None
    ) -> dict[str, WantedFile]:
        del first
        return await super()._wanted(but, first=True, only=only)

    async def _finish(self, wanted: Mapping[str, WantedFile]) -> None:
        """Check what was delivered, where it cannot change any more."""
        # what is raw is no image, whatever guests have written to it, and nothing may be on top of it
        images = [path for path, each in wanted.items() if not each.file.raw]
        await self._blobs.check_images(self._project, images)
        self._to_come = set()
