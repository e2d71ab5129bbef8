"""Archives of images, as files: those of ``docker save``, and of OCI (``oci-archive:``), which Docker's older
engines do not load: what they lack, ``manifest.json``, is added while the archive is sent.

Formats: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format"; OCI image
layout specification v1.0. An archive may come from anywhere: what is read of it is bounded and checked.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
from collections.abc import AsyncIterator
from typing import Any, BinaryIO, cast

import msgspec

from kvmcompose.core.image_build import ContextEntry, content_digest
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError

#: The largest document in an archive, in bytes, and the most entries that it may have.
_LARGEST, _MOST_ENTRIES = 4 << 20, 100_000
_CHUNK = 1 << 20


class ImageArchive(msgspec.Struct, frozen=True):
    """An archive that was read: the ID of its image, how much of the file to send, and what to add then."""

    image_id: str
    size: int
    added: bytes


class _Bounded:
    """A file that is read in pieces of a bounded size: tarfile reads extended headers whole, of any size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes. Raises tarfile.ReadError when they are too many, or all."""
        if not 0 <= size <= _LARGEST:
            raise tarfile.ReadError(f"a header is larger than {_LARGEST >> 20} MiB")
        return self._file.read(size)


def read_archive(file: BinaryIO, name: str) -> ImageArchive:
    """Return what is in an archive with one image; ``name`` is its name in messages. Raises DriverError."""
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _Bounded(file)), mode="r:") as tar:
            entries = {}
            for entry in tar:
                entries[entry.name.removeprefix("./")] = entry
                if len(entries) > _MOST_ENTRIES:
                    raise DriverError(f"{name} has more than {_MOST_ENTRIES} entries")
            end: int = tar.offset  # of what follows the last entry
            if "manifest.json" in entries:
                config = _only(_read(tar, entries["manifest.json"]))["Config"]
                digest = hashlib.sha256(_read(tar, entries[config])).hexdigest()
                return ImageArchive(f"sha256:{digest}", end, bytes(2 * tarfile.BLOCKSIZE))
            reference = _only(_decoded(_read(tar, entries["index.json"]))["manifests"])["digest"]
            manifest = _decoded(_read(tar, entries[_blob(reference)]))
            config = manifest["config"]["digest"]
            layers = [_blob(layer["digest"]) for layer in manifest["layers"]]
            _blob(config)
    # RecursionError: headers that extend headers, or JSON, a thousand levels deep
    except (tarfile.TarError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DriverError(
            f"{name} is not an archive with one image: {error}",
            hint="docker save IMAGE:TAG -o FILE, or skopeo copy docker://IMAGE oci-archive:FILE",
        ) from error
    listed = [{"Config": _blob(config), "RepoTags": None, "Layers": layers}]
    return ImageArchive(config, end, _entry("manifest.json", msgspec.json.encode(listed)))


async def pieces_of(file: BinaryIO, archive: ImageArchive) -> AsyncIterator[bytes]:
    """Yield the archive as every engine loads it."""
    async for piece in pieces_in(file, archive.size):
        yield piece
    yield archive.added


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
        with tarfile.open(fileobj=cast("BinaryIO", _Bounded(file)), mode="r:") as tar:
            for entry in tar:
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
    if entry.isdir():
        return ContextEntry(entry.name, "folder", "")
    if entry.issym():
        return ContextEntry(entry.name, "link", entry.linkname)
    file = tar.extractfile(entry) if entry.isfile() else None
    if file is None:
        raise ValueError(f"{entry.name!r} is neither a file, a folder nor a symbolic link")
    digest = hashlib.sha256()
    while piece := file.read(_CHUNK):
        digest.update(piece)
    return ContextEntry(entry.name, "file", digest.hexdigest(), bool(entry.mode & stat.S_IXUSR))


def _read(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    if not entry.isfile() or entry.size > _LARGEST:
        raise ValueError(f"{entry.name} is not a document of up to {_LARGEST >> 20} MiB")
    file = tar.extractfile(entry)
    return file.read() if file is not None else b""


def _decoded(content: bytes) -> Any:
    return msgspec.json.decode(content)


def _only(content: Any) -> Any:
    """Return the only element of a list, which may be JSON."""
    (element,) = _decoded(content) if isinstance(content, bytes) else content
    return element


def _blob(digest: str) -> str:
    """Return the entry of a blob."""
    algorithm, _, number = digest.partition(":")
    if algorithm != "sha256" or not number.isalnum():
        raise ValueError(f"invalid digest {digest!r}")
    return f"blobs/{algorithm}/{number}"


def _entry(name: str, content: bytes) -> bytes:
    """Return an entry, and the end of the archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
