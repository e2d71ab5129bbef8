"""Files of projects on one host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kvmcompose.images.qcow2 import ImageHeader


class Disks(Protocol):
    """Files of projects on one host. Paths are absolute, as on that host."""

    async def link_project(self, project: str, folder: Path, before: Path | None = None) -> None:
        """Link ``/var/lib/kvm-compose/<project>`` to the folder, and create a folder for consoles in it.

        ``before`` is an earlier folder of the same project, to which the link may still point.
        Raises DriverError when the link points to another project's folder.
        """

    async def linked_folder(self, project: str, folders: Sequence[Path]) -> Path | None:
        """Return which of these folders the project's link leads to; None for no link, or another folder."""

    async def unlink_project(self, project: str, folder: Path) -> None:
        """Remove that link if it points to the folder."""

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

    async def read_from(
        self, path: Path, after: int | None, most: int, *, wait: int = 0
    ) -> tuple[int, bytes]:
        """Return where a part of a file begins, and the part: at most so many bytes from offset ``after``.

        The end of the file for None; the file from its start when it is shorter than ``after``. Where nothing
        follows ``after`` yet, this waits until something does, at most ``wait`` seconds, less than 50. As
        ``read_tail`` otherwise.
        """

    async def wait_for_text(self, path: Path, text: str) -> None:
        """Return when a file, to which a console is written, has a text on a line. See ``read_from``.

        It is looked for from the start of the file on. The caller limits the time.
        """

    async def read_tail(self, path: Path, lines: int) -> str:
        """Return the last lines of a text file that may belong to root; empty when it does not exist."""
