"""File trees as values, and the archive that Linux unpacks as its initramfs."""

from __future__ import annotations

import io
import stat
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class TreeEntry(msgspec.Struct, frozen=True, order=True):
    """A file, folder or symlink owned by root.

    ``mode`` includes the file type. ``data`` is the content of a file, or the target of a symlink.
    """

    path: str
    mode: int
    data: bytes = b""


def folder(path: str, permissions: int = 0o755) -> TreeEntry:
    """Return a folder."""
    return TreeEntry(path, stat.S_IFDIR | permissions)


def link(path: str, target: str) -> TreeEntry:
    """Return a symlink."""
    return TreeEntry(path, stat.S_IFLNK | 0o777, target.encode())


def file(path: str, data: bytes, permissions: int | None = None) -> TreeEntry:
    """Return a file; by default a script or program is executable."""
    if permissions is None:
        permissions = 0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644
    return TreeEntry(path, stat.S_IFREG | permissions, data)


def complete(entries: Iterable[TreeEntry]) -> tuple[TreeEntry, ...]:
    """Return the entries and the folders above them, each folder before its content.

    Of entries with the same path the last one counts.
    """
    found = {entry.path: entry for entry in entries}
    for path in tuple(found):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            found.setdefault(above, folder(above))
    return tuple(found[path] for path in sorted(found, key=lambda path: path.split("/")))


def cpio(entries: Iterable[TreeEntry], *, mtime: int) -> bytes:
    """Return an archive in the format "newc" (Linux, Documentation/driver-api/early-userspace).

    All entries get the time ``mtime`` (seconds since 1970).
    """
    archive = io.BytesIO()
    ending = TreeEntry("TRAILER!!!", 0)
    for number, entry in enumerate((*complete(entries), ending), start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (number, entry.mode, 0, 0, links, mtime, len(entry.data), 0, 0, 0, 0, len(name), 0)
        archive.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        _align(archive)
        archive.write(entry.data)
        _align(archive)
    return archive.getvalue()


def _align(archive: io.BytesIO) -> None:
    archive.write(bytes(-archive.tell() % 4))
