"""The private folder of a project, ``.kvm-compose``, which may have come along with a lab.

What is in it is used only if it is what kvm-compose makes: a folder that is no link, and regular files with
one name each, that belong to this user. Anything else is left as it is, and reported.
"""

from __future__ import annotations

import os
import shlex
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.files import STAGED_PREFIX, seal
from kvmcompose.effects.opening import kind_of, open_below, open_folder

#: Files of ours in it; what else is there belongs to the server, which looks after that itself.
_OURS = frozenset(
    {
        ".gitignore", "digests.json", "golden.json", "known_hosts", "known_hosts.lock", "ledger.lock",
        "ledger.new", "ledger.new-journal", "ledger.new-shm", "ledger.new-wal", "ledger.sqlite",
        "ledger.sqlite-journal", "ledger.sqlite-shm", "ledger.sqlite-wal", "lock", "sent.json",
    }
)  # fmt: skip
#: What a build can do without; ``build.stamp`` sees to it that these are what they should be.
_SPARE = frozenset({"standing", "standing.new"})


def refuse_foreign(private: Path) -> None:
    """Raise KvmComposeError when there is something in the place that kvm-compose has not made."""
    trouble = complaint(private)
    if trouble is not None:
        raise trouble


def complaint(private: Path) -> KvmComposeError | None:
    """What to say when there is something in the place that kvm-compose has not made."""
    trouble = foreign(private)
    if trouble is None:
        return None
    path, what = trouble
    there = shlex.quote(str(path))
    return KvmComposeError(
        f"{str(path)!r} {what}: it is not used",
        hint=f"look at it, and move it away: mv {there} {there}.found",
    )


def foreign(private: Path) -> tuple[Path, str] | None:
    """The first path that kvm-compose has not made, and what is wrong with it. Nothing is followed."""
    try:
        status = private.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return private, f"cannot be looked at ({error.strerror})"
    owners = {os.geteuid(), 0}  # a server of root's keeps its notes there
    if os.geteuid() == 0:  # root may work in the project of somebody
        owners.add(private.parent.stat().st_uid)
    if not stat.S_ISDIR(status.st_mode):
        return private, f"is {kind_of(status.st_mode)}, not a folder"
    if status.st_uid not in owners:
        return private, f"belongs to another user ({status.st_uid})"
    try:
        folder = open_folder(private)
    except OSError as error:
        return private, f"cannot be opened ({error.strerror})"
    try:
        for name in sorted(_OURS):
            what = _wrong(folder, name, owners)
            if what is not None:
                return private / name, what
    finally:
        os.close(folder)
    return None


def _wrong(folder: int, name: str, owners: set[int]) -> str | None:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return f"is {kind_of(status.st_mode)}, not a regular file"
    if status.st_uid not in owners:
        return f"belongs to another user ({status.st_uid})"
    if status.st_nlink > 1:
        return "has another name, too (a hard link)"
    return None


def prepare(private: Path) -> None:
    """Have the private folder for a build, for its owner alone. Raises KvmComposeError, OSError."""
    refuse_foreign(private)
    private.parent.mkdir(parents=True, exist_ok=True)
    try:
        private.mkdir(mode=0o700)
    except FileExistsError:
        refuse_foreign(private)
    folder = open_folder(private)
    try:
        with suppress(OSError):  # on a file system that cannot be written to the ledger will say so
            if os.fstat(folder).st_mode & 0o077:
                os.fchmod(folder, 0o700)
            for name in _OURS | _SPARE:
                _tighten(folder, name)
        if ".gitignore" not in os.listdir(folder):  # noqa: PTH208 (a descriptor)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with suppress(OSError):  # another build was faster, or as above
                handle = os.open(".gitignore", flags, 0o600, dir_fd=folder)
                with os.fdopen(handle, "wb") as file:
                    file.write(b"*\n")
    finally:
        os.close(folder)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a whole file of a private folder, or nothing. Neither folder nor file is reached by a link.

    Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = open_folder(path.parent)
    staged = f"{STAGED_PREFIX}{uuid.uuid4().hex}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(open_below(folder, staged, flags), "wb") as file:
            file.write(data)
            seal(file, mode)
        os.replace(staged, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=folder)
        raise
    finally:
        os.close(folder)


def remove(path: Path) -> None:
    """Remove a file of a private folder, if both are there; the folder is not reached by a link.

    Raises OSError.
    """
    try:
        folder = open_folder(path.parent)
    except FileNotFoundError:
        return
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
    finally:
        os.close(folder)


def _tighten(folder: int, name: str) -> None:
    """Take others' rights to a file away."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, dir_fd=folder)
    except OSError:  # not there, or a spare one that is not ours
        return
    try:
        status = os.fstat(handle)
        ours = status.st_uid == os.geteuid() or os.geteuid() == 0
        if ours and stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_mode & 0o077:
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
