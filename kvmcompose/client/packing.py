"""Packs files and folders of this machine into a tar archive for a guest, piece by piece."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE


class Packed(msgspec.Struct, frozen=True):
    """What an archive will have: entries with the files that they are read from, and what it leaves out."""

    entries: tuple[tuple[tarfile.TarInfo, Path], ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """The contents, in bytes."""
        return sum(info.size for info, _ in self.entries)


def collect(sources: Sequence[tuple[Path, str]], *, recursive: bool) -> Packed:
    """Look at files and folders, each with its name in the archive. Raises KvmComposeError.

    A source that is a symbolic link is followed; links in folders stay links. Files belong to root in the
    guest, as with ``docker cp``, and keep their modes and times.
    """
    entries: list[tuple[tarfile.TarInfo, Path]] = []
    left_out: list[str] = []
    for path, name in sources:
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode) and not recursive:
                raise KvmComposeError(f"{path} is a folder", hint="kvm-compose cp -r copies folders")
            if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
                raise KvmComposeError(f"{path} is neither a file nor a folder")
            _add(path, name, status, entries, left_out)
        except OSError as error:
            raise _unreadable(error.filename or path, error) from error
    return Packed(tuple(entries), tuple(left_out))


def _add(
    path: Path,
    name: str,
    status: os.stat_result,
    entries: list[tuple[tarfile.TarInfo, Path]],
    left_out: list[str],
) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        entries.append((info, path))
        with os.scandir(path) as listing:
            found = sorted(listing, key=lambda each: each.name)
        for each in found:
            inner = each.stat(follow_symlinks=False)
            _add(Path(each.path), f"{name}/{each.name}", inner, entries, left_out)
        return
    if stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)  # noqa: PTH115 (a text, not a path)
    elif stat.S_ISREG(status.st_mode):
        info.size = status.st_size
    else:
        left_out.append(str(path))
        return
    entries.append((info, path))


def packed(what: Packed, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the archive. ``advance`` is called with the bytes of contents so far. Raises KvmComposeError."""
    done = 0
    for info, path in what.entries:
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if not info.isreg():
            continue
        for chunk in _contents(path, info.size):
            yield chunk
            done += len(chunk)
            advance(done)
        yield bytes(-info.size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _contents(path: Path, size: int) -> Iterator[bytes]:
    """Yield a file's first ``size`` bytes: its entry has said so many."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise KvmComposeError(f"{path} has changed: it is no longer a file")
            while size:
                chunk = os.read(handle, min(size, _CHUNK))
                if not chunk:
                    raise KvmComposeError(f"{path} has become shorter while it was copied")
                size -= len(chunk)
                yield chunk
        finally:
            os.close(handle)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | bytes | Path, error: OSError) -> KvmComposeError:
    return KvmComposeError(f"cannot read {os.fsdecode(path)}: {error.strerror}")
