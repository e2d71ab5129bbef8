"""Where a host keeps what it was sent: blobs by their SHA-256, and the files of projects.

The main host needs no such store, because the project folder itself is there; but the server keeps one there
for projects of users who are not administrators.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

#: Holds the project folders on a host that is not the main host; each mirrors what guests there need.
HOSTED = Path("/var/lib/kvm-compose/.hosted")
#: Holds the blobs.
STORE = Path("/var/lib/kvm-compose/.store")


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has, in bytes where it is a size.

    ``stored`` are digests of blobs, ``parts`` those in transfer, with the space that they take. ``delivered``
    maps existing files of the project to the digests of what was delivered (empty if unknown). ``linked`` are
    those that are links to blobs. ``room`` is free space.
    """

    stored: frozenset[str] = frozenset()
    parts: Mapping[str, int] = {}
    delivered: Mapping[str, str] = {}
    linked: frozenset[str] = frozenset()
    room: int = 0


class FileSize(msgspec.Struct, frozen=True):
    """The size of a file: its length, and the space that it takes, in bytes."""

    length: int
    allocated: int


class Blob(msgspec.Struct, frozen=True):
    """A local file, and the SHA-256 of its content. ``shown`` is its path in messages, if it is another."""

    digest: str
    source: Path
    shown: str = ""

    @property
    def name(self) -> str:
        """How messages name it."""
        return self.shown or str(self.source)


class BlobStore(Protocol):
    """The store of one host. A blob is sent once, whatever the number of guests and projects that need it.

    ``home`` names the main host and folder of a project: two main hosts may have different projects of the
    same name. Paths in a project are relative. ``progress`` is called with the number of bytes of each piece.
    """

    async def inspect(self, project: str, home: str) -> Inventory:
        """Return what the host has. Raises DriverError when the host cannot be reached, lacks a program or
        rights, or has a project of this name that belongs to another main host.
        """

    async def open(self, project: str, home: str) -> None:
        """Create the project's folder (in HOSTED), unless it exists."""

    async def store(self, digest: str, source: Path, progress: Callable[[int], None]) -> None:
        """Send a blob. The transfer resumes where an earlier one was interrupted, and waits for a while for a
        host that is lost meanwhile. Afterwards the blob is complete and verified, or not there at all.
        """

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        """Make paths of the project links to stored blobs: path -> digest."""

    async def put(self, project: str, files: Mapping[str, Blob], progress: Callable[[int], None]) -> None:
        """Send files that are the project's own, by path, and replace what is there."""

    async def measure(self, project: str, path: str) -> FileSize:
        """Return the size of a file of the project. Raises DriverError for a missing file."""

    async def digest(self, project: str, path: str, size: FileSize) -> str:
        """Return the SHA-256 of a file of the project, read there."""

    async def fetch(
        self, project: str, path: str, blob: Blob, size: FileSize, progress: Callable[[int], None]
    ) -> None:
        """Copy a file of the project to ``blob.source`` on the main host, which only its owner may read.

        The transfer resumes where an earlier one was interrupted, as ``store``. Afterwards the file has the
        digest of the blob, or is not there at all. At most ``size.length`` bytes are read.
        """

    async def note(self, project: str, path: str, digest: str) -> None:
        """Record that a file of the project was changed there into what would be sent."""

    async def check_images(self, project: str, paths: Collection[str]) -> None:
        """Raise DriverError when one of these files is an image that refers to a file not among them."""

    async def clear(self, project: str) -> None:
        """Remove the project's folder, and the blobs that were made for it and that nothing else needs."""
