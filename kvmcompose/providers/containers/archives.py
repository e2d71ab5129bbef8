"""Contexts that images are built from, as files: tar archives that builds make, and users may edit."""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import AsyncIterator
from typing import BinaryIO, cast

from kvmcompose.core.image_build import ContextEntry, content_digest
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.images.image_archives import BoundedFile

#: The most entries that a context may have.
_MOST_ENTRIES = 100_000
#: The longest path in a context, as in Linux.
_LONGEST_PATH = 4096
_CHUNK = 1 << 20


async def pieces_in(file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    """Yield so many bytes of a file, or all that it has."""
    await in_thread(file.seek, 0)
    left = size
    while left > 0 and (piece := await in_thread(file.read, min(_CHUNK, left))):
        left -= len(piece)
        yield piece


def build_context_digest(file: BinaryIO, name: str) -> str:
    """Return the ``content_digest`` of an archive that is the context of an image. Raises DriverError."""
    entries = []
    try:
        with tarfile.open(fileobj=cast("BinaryIO", BoundedFile(file)), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # it would keep all of them
                entries.append(_context_entry(tar, entry))
                if len(entries) > _MOST_ENTRIES:
                    raise DriverError(f"{name} has more than {_MOST_ENTRIES} entries")
    except (tarfile.TarError, ValueError, RecursionError, OSError) as error:
        raise DriverError(
            f"{name} is not a context of an image: {error}",
            hint=f"build it again: rm {name}; kvm-compose generate",
        ) from error
    return content_digest(entries)


def _context_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> ContextEntry:
    if max(len(entry.name), len(entry.linkname)) > _LONGEST_PATH:
        raise ValueError(f"a path in it is longer than {_LONGEST_PATH} characters")
    if entry.isdir():
        return ContextEntry(entry.name, "folder", "")
    if entry.issym():
        return ContextEntry(entry.name, "link", entry.linkname)
    # a sparse one could be of any size, and take any time
    file = tar.extractfile(entry) if entry.isfile() and not entry.issparse() else None
    if file is None:
        raise ValueError(f"{entry.name!r} is neither a file, a folder nor a symbolic link")
    digest = hashlib.sha256()
    while piece := file.read(_CHUNK):
        digest.update(piece)
    return ContextEntry(entry.name, "file", digest.hexdigest(), bool(entry.mode & stat.S_IXUSR))
