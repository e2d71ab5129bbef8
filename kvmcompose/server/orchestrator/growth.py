"""Disks with data on hosts that they were sent to: where only the size has changed since, they grow there."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

import msgspec

from kvmcompose.effects.opening import open_regular
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.transfer_plan import NeededFile
from kvmcompose.images.qcow2 import ImageHeader, holds_nothing, parse_header

_GIB = 1 << 30
#: A disk that no guest has written to is shorter: its table takes 1 MiB for 64 TiB.
_MOST = 1 << 22


class WantedFile(msgspec.Struct, frozen=True, gc=False):
    """A file that a host needs, and the digest of its content."""

    file: NeededFile
    digest: str


class GrowingDisk(msgspec.Struct, frozen=True):
    """A disk with data: its size and the one that it is to have, in bytes. A golden image keeps its size."""

    before: int
    after: int

    def __str__(self) -> str:
        """Return the change, for a message."""
        return f"grows from {_gib(self.before)} to {_gib(self.after)}, data kept"


class HostedDisks(msgspec.Struct, frozen=True, kw_only=True):
    """The disks of a project on one host. All paths are relative to the project folder.

    ``header`` and ``pristine`` look at a disk there. ``golden`` are the disks there that clones are overlays
    on. ``files`` reads here, with the rights of another user.
    """

    delivered: Mapping[str, str]
    header: Callable[[str], Awaitable[ImageHeader]]
    pristine: Callable[[str], Awaitable[bool]]
    golden: Collection[str | None]
    files: OwnerFiles | None

    async def growing(self, wanted: Mapping[str, WantedFile]) -> dict[str, GrowingDisk]:
        """Return the disks that grow: what was built differs from them only in its size. Raises OSError."""
        found: dict[str, GrowingDisk] = {}
        changed = [
            path
            for path, each in wanted.items()
            if each.file.disk and not each.file.raw and self.delivered.get(path) not in (None, each.digest)
        ]
        # golden images first: their clones can stay if they do
        for path in sorted(changed, key=lambda path: path not in self.golden):
            new = await in_thread(self._unused, wanted[path].file)
            if new is None or await self.pristine(path):
                continue
            there = await self.header(path)
            same = (there.backing_file, there.data_file) == (new.backing_file, None)
            if not same or there.virtual_size > new.virtual_size:
                continue
            if all([below in found or await self._same(below, wanted) for below in wanted[path].file.below]):
                after = there.virtual_size if path in self.golden else new.virtual_size
                found[path] = GrowingDisk(there.virtual_size, after)
        return found

    async def _same(self, path: str, wanted: Mapping[str, WantedFile]) -> bool:
        """Whether a backing file there reads as the one here: it is the same, or both have no data."""
        if path not in self.delivered:
            return False
        if self.delivered[path] == wanted[path].digest:
            return True
        new = await in_thread(self._unused, wanted[path].file)
        if new is None or not await self.pristine(path):
            return False
        return (await self.header(path)).backing_file == new.backing_file

    def _unused(self, file: NeededFile) -> ImageHeader | None:
        """Return the header of a disk that has no data here; what it had would have to be sent."""
        if self.files is not None:
            head = self.files.read(Path(file.source), _MOST)
        else:
            with os.fdopen(open_regular(file.source), "rb") as opened:
                head = opened.read(_MOST)
        try:
            return parse_header(head) if holds_nothing(head) else None
        except ValueError:
            return None


def _gib(size: int) -> str:
    return f"{round(size / _GIB, 2):g} GiB"
