"""Files of projects on one host."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Disks(Protocol):
    """Files of projects on one host, and what is in disk images. Paths are absolute, as on that host."""

    async def link_project(self, project: str, folder: Path, before: Path | None = None) -> None:
        """Make ``/var/lib/kvm-compose/<project>`` lead to the folder, and a folder for consoles in it.

        ``before`` is a folder of the same project that it may lead to until now.
        Raises DriverError when another project's folder is known under this name.
        """

    async def unlink_project(self, project: str, folder: Path) -> None:
        """Remove that link if it leads to the folder."""

    async def pristine(self, path: Path) -> bool:
        """Whether an overlay holds nothing yet of its own: its guest has never written."""

    async def reset_overlay(self, path: Path) -> None:
        """Put an empty overlay of the same size and backing file in its place: all data is lost."""

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Take away (or give) everybody's right to write to a disk."""

    async def signature(self, path: Path) -> str:
        """Something that changes when the file does: for a frozen disk. Raises DriverError if missing."""

    async def remove(self, path: Path) -> None:
        """Remove a file; no error if it is gone."""

    async def read_tail(self, path: Path, lines: int) -> str:
        """The last lines of a text file that may be root's; empty when it is not there."""
