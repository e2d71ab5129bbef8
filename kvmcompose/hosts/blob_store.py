"""What a host that is not the main host has been sent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

#: Where a project lies on a host that is not the main host; below it, mirrored, what its guests need.
HOSTED = Path("/var/lib/kvm-compose/.hosted")

STORE = Path("/var/lib/kvm-compose/.store")


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has: contents by their SHA-256, and files of a project that were delivered and are there,
    with the digest of what was delivered (empty when nobody knows). ``parts`` are contents that are on
    their way, with the space they take; ``room`` is free space. In bytes.
    """

    stored: frozenset[str] = frozenset()
    parts: Mapping[str, int] = {}
    delivered: Mapping[str, str] = {}
    room: int = 0


class Blob(msgspec.Struct, frozen=True):
    """A file here, and the SHA-256 of what is in it."""

    digest: str
    source: Path


class BlobStore(Protocol):
    """What a host that is not the main host has been sent: contents by their SHA-256, and projects' files.

    Contents are sent once, whatever the number of guests and projects that need them. ``home`` tells whose
    project it is: two main hosts may know different projects by one name. Paths in a project are relative.
    """

    async def look(self, project: str, home: str) -> Inventory:
        """What is there. Raises DriverError when the host cannot be reached, lacks a program or rights, or
        keeps the project of another main host under this name.
        """

    async def open(self, project: str, home: str) -> None:
        """Make the project's folder (in HOSTED), unless it is there."""

    async def store(self, digest: str, source: Path, told: Callable[[int], None]) -> None:
        """Send a content. It goes on where an attempt before was cut off, and waits for a host that is lost
        on the way to come back, for a while; it is there, whole and checked, or not at all.

        ``told`` is told the number of bytes of each piece that was sent.
        """

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        """Have paths of the project lead to stored contents: path -> digest."""

    async def put(self, project: str, files: Mapping[str, Blob], told: Callable[[int], None]) -> None:
        """Send files that are the project's own, by path, each in the place of any that is there."""

    async def check_images(self, project: str, paths: Collection[str]) -> None:
        """Raises DriverError when one of these files is an image that names a file that is none of them."""

    async def clear(self, project: str) -> None:
        """Remove the project's folder, and stored contents that were made for it and no other needs."""
