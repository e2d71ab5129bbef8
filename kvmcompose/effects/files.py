"""Files: atomic writes and digests. What somebody else names is read through ``effects.opening``."""

from __future__ import annotations

import contextlib
import hashlib
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

#: What is read in one go, in bytes.
_SMALL = 1 << 20
#: What files are called until they are finished and take their place.
STAGED_PREFIX = ".kvm-compose-staged-"


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` when the block ends well, and leaves no trace when not.

    The temporary file lies in the same folder, so the rename is atomic. Raises OSError.
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
    """Finish a file that was written: its permissions, and a time stamp that later changes show against.

    The kernel stamps files with a clock of coarse ticks. With a finer stamp of our own, a change that
    follows within the same tick still shows, as it puts a coarse one in its place.
    """
    file.flush()
    os.fchmod(file.fileno(), mode)
    now = time.time_ns() | 1
    os.utime(file.fileno(), ns=(now, now))


def is_readable(path: Path) -> bool:
    """Whether a file may be read: one that QEMU's user has while a guest runs may not be."""
    return os.access(path, os.R_OK)


def unreadable(path: Path) -> str:
    """Why a file cannot be read, and the way out. Raises OSError when it is not there."""
    uid = path.stat().st_uid
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = f"the user {uid}"
    return f"it belongs to {owner} and cannot be read (sudo chown {os.geteuid()} {shlex.quote(str(path))})"


def restrict(path: Path) -> os.stat_result | None:
    """Take all rights to a file of ours from its group and from others: how it is then; None if not ours.

    Neither a link is followed nor anything but a regular file touched.
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
    """Write a whole file or nothing. Raises OSError."""
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
    """A path with ``~`` resolved; as it is when there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def digest_bytes(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    try:
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size <= _SMALL:
                return hashlib.sha256(file.readall()).hexdigest()
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        error.filename = str(path)  # reading does not tell
        raise
