"""Trees of files as values, and the archive that Linux unpacks into its first memory disk."""

from __future__ import annotations

import io
import stat
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Node(msgspec.Struct, frozen=True, order=True):
    """A file, folder or symlink of root's. ``mode`` has the type in it; ``data`` is a link's goal, too."""

    path: str
    mode: int
    data: bytes = b""


def folder(path: str, permissions: int = 0o755) -> Node:
    """A folder."""
    return Node(path, stat.S_IFDIR | permissions)


def link(path: str, goal: str) -> Node:
    """A symlink."""
    return Node(path, stat.S_IFLNK | 0o777, goal.encode())


def file(path: str, data: bytes, permissions: int | None = None) -> Node:
    """A file; what is a script or a program may be run, unless told otherwise."""
    runs = data.startswith((b"#!", b"\x7fELF"))
    return Node(
        path, stat.S_IFREG | (permissions if permissions is not None else 0o755 if runs else 0o644), data
    )


def complete(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes and the folders above them, folders first. A later node replaces an earlier one."""
    found = {node.path: node for node in nodes}
    for path in tuple(found):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            found.setdefault(above, folder(above))
    return tuple(found[path] for path in sorted(found, key=lambda path: path.split("/")))


def cpio(nodes: Iterable[Node], *, mtime: int) -> bytes:
    """The nodes as an archive in the format "newc" (Linux, Documentation/driver-api/early-userspace)."""
    archive = io.BytesIO()
    ending = Node("TRAILER!!!", 0)
    for number, node in enumerate((*complete(nodes), ending), start=1):
        name = node.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(node.mode) else 1
        fields = (number, node.mode, 0, 0, links, mtime, len(node.data), 0, 0, 0, 0, len(name), 0)
        archive.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        _align(archive)
        archive.write(node.data)
        _align(archive)
    return archive.getvalue()


def _align(archive: io.BytesIO) -> None:
    archive.write(bytes(-archive.tell() % 4))
