"""The archive in a seed: what lands below ``/etc/nocloud`` in the guest (format: POSIX ustar/pax).

Members are sorted by name, owned by root and all of one time. The context comes first, so its part of the
archive is the same for all guests that share it: it is packed once, and the rest is appended for each guest.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO, Protocol, Self

import msgspec

from kvmcompose.core.errors import KvmComposeError

_FOLDERS = ("context", "run", "setup")
_CHUNK = 2**20


class ContextMember(msgspec.Struct, frozen=True):
    """A path below a context folder: a file can be opened, a symbolic link has a target, a folder neither.

    Without a ``mode`` a file has 0755 or 0644, a folder 0755: those of the user's files differ by umask.
    """

    path: str
    open: Callable[[], BinaryIO] | None = None
    executable: bool = False
    link_target: str | None = None
    mode: int | None = None


class Hash(Protocol):
    """A hash object of hashlib, whose own type has no name at run time (msgspec resolves annotations)."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def copy(self) -> Self:
        """Return a hash of what was added so far."""

    def digest(self) -> bytes:
        """Return the digest."""

    def hexdigest(self) -> str:
        """Return the digest in hexadecimal."""


class PackedContext(msgspec.Struct, frozen=True):
    """The first part of an archive: ``size`` bytes, a way to open them for reading, and their hash."""

    open: Callable[[], BinaryIO]
    size: int
    sha256: Hash


class _HashedWriter:
    """Writes to a file, and hashes what it writes."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self.sha256.update(data)


def pack_context(
    members: Iterable[ContextMember], epoch: int, out: BinaryIO
) -> tuple[Hash, Mapping[str, str]]:
    """Write the first part of an archive to an empty file.

    Returns the SHA-256 of all of it, to which more can be added, and that of each file by path. No file is
    held in memory. Raises OSError, and KvmComposeError for a file that shrinks while it is read.
    """
    writer = _HashedWriter(out)
    digests = {}
    for name in _FOLDERS:
        writer.write(_header(_member(name, tarfile.DIRTYPE, 0o755, epoch)))
    for member in sorted(members, key=lambda each: each.path):
        name = f"context/{member.path}"
        if member.link_target is not None:
            info = _member(name, tarfile.SYMTYPE, 0o777, epoch)
            info.linkname = member.link_target
            writer.write(_header(info))
        elif member.open is None:
            mode = 0o755 if member.mode is None else member.mode
            writer.write(_header(_member(name, tarfile.DIRTYPE, mode, epoch)))
        else:
            with member.open() as file:
                digests[member.path] = _pack_file(file, name, member, epoch, writer)
    return writer.sha256, digests


def _pack_file(file: BinaryIO, name: str, member: ContextMember, epoch: int, writer: _HashedWriter) -> str:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    usual = _usual_mode(executable=member.executable)
    mode = usual if member.mode is None else member.mode
    writer.write(_file_header(name, size, mode=mode, epoch=epoch))
    digest = hashlib.sha256()
    left = size
    while left:
        data = file.read(min(left, _CHUNK))
        if not data:
            raise KvmComposeError(f"{member.path!r} of the context became shorter while it was read")
        digest.update(data)
        writer.write(data)
        left -= len(data)
    writer.write(_padding(size, tarfile.BLOCKSIZE))
    return digest.hexdigest()


def packed_files(files: Mapping[str, tuple[bytes, bool]], epoch: int) -> bytes:
    """Return the members for files in memory, each with whether it is executable."""
    parts = []
    for name, (data, executable) in sorted(files.items()):
        header = _file_header(name, len(data), mode=_usual_mode(executable=executable), epoch=epoch)
        parts += [header, data, _padding(len(data), tarfile.BLOCKSIZE)]
    return b"".join(parts)


def end(size: int) -> bytes:
    """Return the end of an archive whose members take ``size`` bytes."""
    marker = bytes(2 * tarfile.BLOCKSIZE)
    return marker + _padding(size + len(marker), tarfile.RECORDSIZE)


def _padding(size: int, unit: int) -> bytes:
    return bytes(-size % unit)


def _member(name: str, kind: bytes, mode: int, epoch: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    info.mtime = epoch
    info.uname = info.gname = "root"
    return info


def _usual_mode(*, executable: bool) -> int:
    return 0o755 if executable else 0o644


def _file_header(name: str, size: int, *, mode: int, epoch: int) -> bytes:
    info = _member(name, tarfile.REGTYPE, mode, epoch)
    info.size = size
    return _header(info)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, tarfile.ENCODING, "surrogateescape")
