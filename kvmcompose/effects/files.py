"""Atomic writes, digests and permissions. Files named by others are read through ``effects.opening``."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import pwd
import shlex
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kvmcompose.effects.opening import open_regular

#: The largest file that is read at once, in bytes.
_SMALL = 1 << 20
#: The prefix of temporary files that are renamed when they are complete.
STAGED_PREFIX = ".kvm-compose-staged-"
#: What stands for a hole, or a part of one, in the content of a sparse file.
ZEROS = bytes(1 << 20)
#: How much of a file may be holes, in bytes: a digest covers them, at about 1 GiB in a second.
LARGEST_HOLES = 1 << 40
#: When reading a file is reported for the first time, and how often after that, in seconds.
_FIRST_REPORT_SECONDS = 3
_REPORT_SECONDS = 10

log = logging.getLogger(__name__)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Yield a new file that replaces ``path`` at the end of the block, unless that raises an exception.

    The temporary file is in the same folder, so the rename is atomic. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=STAGED_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            seal(file, mode)
        os.replace(name, path)  # noqa: PTH105 (mkstemp gives a string)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        raise


def seal(file: IO[bytes], mode: int) -> None:
    """Set the permissions of a complete file, and a time stamp that differs after any later change.

    The kernel's clock for time stamps has coarse ticks. A finer stamp of our own is replaced by a coarse one
    even if a change follows within the same tick.
    """
    file.flush()
    os.fchmod(file.fileno(), mode)
    now = time.time_ns() | 1
    os.utime(file.fileno(), ns=(now, now))


def is_readable(path: Path) -> bool:
    """Return whether a file can be read; QEMU's user may own it while a guest runs."""
    return os.access(path, os.R_OK)


def unreadable(path: Path) -> str:
    """Describe why a file cannot be read, and a fix. Raises OSError when it does not exist."""
    uid = path.stat().st_uid
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = f"the user {uid}"
    return f"it belongs to {owner} and cannot be read (sudo chown {os.geteuid()} {shlex.quote(str(path))})"


def restrict(path: Path) -> os.stat_result | None:
    """Remove all permissions of group and others from a regular file that we own; no link is followed.

    Returns the file's new status, or None if it is not such a file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        os.fchmod(handle, status.st_mode & stat.S_IRWXU)
        return os.fstat(handle)
    except OSError:
        return None
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file completely or not at all. Raises OSError."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def list_folder(folder: Path) -> list[Path]:
    """Return the paths in a folder, sorted; none if it does not exist or is a symlink. Raises OSError."""
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expand(path: str | Path) -> Path:
    """Return a path with ``~`` expanded, or unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def digest_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_link(path: Path) -> str:
    """Return the SHA-256 of the text of a symbolic link, in hexadecimal. Raises OSError."""
    return digest_bytes(os.fsencode(os.readlink(path)))  # noqa: PTH115 (the text, unresolved)


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    try:
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size <= _SMALL:
                return hashlib.sha256(file.readall()).hexdigest()
            digest = hashlib.sha256()
            for chunk in read_sparse(file.fileno(), Path(path)):
                digest.update(chunk)
            return digest.hexdigest()
    except OSError as error:
        error.filename = str(path)  # errors of reading have none
        raise


def read_sparse(descriptor: int, path: Path) -> Iterator[bytes | memoryview]:
    """Yield the content of a file in chunks that are at most as long as ``ZEROS``.

    Holes are not read (SEEK_DATA and SEEK_HOLE in lseek(2)): they are ``ZEROS`` and its beginnings. A chunk
    is valid until the next one. Reading that takes long is reported in the log, with ``path``. Raises
    OSError, with EFBIG for a file with more holes than ``LARGEST_HOLES``.
    """
    if has_too_many_holes(descriptor):
        raise too_many_holes(path)
    size, position = os.fstat(descriptor).st_size, 0
    buffer = memoryview(bytearray(len(ZEROS)))
    due = time.monotonic() + _FIRST_REPORT_SECONDS
    while position < size:
        data, hole = _next_data(descriptor, position, size)
        while position < hole:
            until = data if position < data else hole
            length = min(until - position, len(ZEROS))
            if position >= data:
                length = os.preadv(descriptor, [buffer[:length]], position)
                if not length:  # truncated meanwhile
                    return
                yield buffer[:length]
            else:
                yield ZEROS if length == len(ZEROS) else ZEROS[:length]
            position += length
            if time.monotonic() > due:
                due += _REPORT_SECONDS
                log.warning("reading %s: %.1f of %.1f GiB", path, position / 2**30, size / 2**30)


def has_too_many_holes(descriptor: int) -> bool:
    """Return whether a file has more than ``LARGEST_HOLES`` of holes. Raises OSError."""
    status = os.fstat(descriptor)
    size, position, holes = status.st_size, 0, 0
    if size - status.st_blocks * 512 <= LARGEST_HOLES:
        return False
    # blocks alone do not tell: file systems compress
    while position < size and holes <= LARGEST_HOLES:
        data, hole = _next_data(descriptor, position, size)
        holes += data - position
        position = hole
    return holes > LARGEST_HOLES


def too_many_holes(path: Path) -> OSError:
    """Return the error for a file with too many holes."""
    return OSError(errno.EFBIG, f"more than {LARGEST_HOLES >> 40} TiB of it are holes", str(path))


def _next_data(descriptor: int, position: int, size: int) -> tuple[int, int]:
    """Return where the next data of a file begins and ends; ``size`` twice when there is only a hole."""
    try:
        data = os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size, size
    return data, min(os.lseek(descriptor, data, os.SEEK_HOLE), size)
