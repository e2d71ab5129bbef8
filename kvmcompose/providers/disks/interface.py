"""Disk images of guests on one host."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from kvmcompose.images.qcow2 import ImageHeader


class Disks(Protocol):
    """Disk images of guests on one host. Paths are absolute, as on that host."""

    async def pristine(self, path: Path) -> bool:
        """Return whether an overlay has no allocated clusters: its guest has never written to it."""

    async def reset_overlay(self, path: Path, *, blank: bool = False) -> None:
        """Replace an overlay by an empty one of the same size and backing file: all data is lost.

        ``blank``: it may be a disk without a backing file, which was empty when it was made.
        """

    async def replace(self, path: Path, staged: Path) -> None:
        """Put another file, from the same file system, in the place of a disk, with its owner and mode."""

    async def header(self, path: Path) -> ImageHeader:
        """Return the header of a disk. Raises DriverError for one that is missing or invalid."""

    async def grow(self, path: Path, size: int) -> None:
        """Enlarge a disk to ``size`` bytes, and keep its data. Raises DriverError while a guest uses it."""

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Revoke (or grant) permission to write to a disk."""

    async def signature(self, path: Path) -> str:
        """Return a value that changes when a frozen disk does. Raises DriverError for a missing file."""

    async def ready_nvram(self, path: Path, *, fresh: bool) -> None:
        """Make the file for the variables of a UEFI ready for libvirt, which fills it where there is none.

        ``fresh``: the guest begins with new ones. Raises DriverError for a link, or no regular file.
        """

    async def ready_raw(self, path: Path, size: int) -> None:
        """Make a raw disk ``size`` bytes long, unless it is as long already: what is on it stays.

        Guests may run with it. Raises DriverError for a link, or no regular file.
        """

    async def length(self, path: Path) -> int:
        """Return the length of a raw disk in bytes. Raises DriverError for a missing file."""

    async def remove(self, path: Path) -> None:
        """Remove a file; no error if it is gone."""
