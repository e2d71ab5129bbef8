"""The private folder of a project, ``.kvm-compose``, which a lab from elsewhere may already contain.

Its files are used only if they are like those that kvm-compose creates: the folder is not a link, and the
files are regular ones with one name each, owned by this user. Anything else is left alone, and reported.
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
from kvmcompose.effects.opening import flaw, kind_of, open_below, open_folder

#: The files of a build; the server checks its own files.
_OURS = frozenset(
    {
        ".gitignore", "digests.json", "golden.json", "known_hosts", "known_hosts.lock", "ledger.lock",
        "ledger.new", "ledger.new-journal", "ledger.new-shm", "ledger.new-wal", "ledger.sqlite",
        "ledger.sqlite-journal", "ledger.sqlite-shm", "ledger.sqlite-wal", "lock", "sent.json", "in-use.json",
    }
)  # fmt: skip
#: Files that a build can do without; ``build.stamp`` checks them.
_SPARE = frozenset({"standing", "standing.new"})


def refuse_foreign(private: Path) -> None:
    """Raise KvmComposeError when the folder or a file in it was not created by kvm-compose."""
    error = complaint(private)
    if error is not None:
        raise error


def complaint(private: Path) -> KvmComposeError | None:
    """Return the error to raise when the folder or a file in it was not created by kvm-compose, or None."""
    found = foreign(private)
    if found is None:
        return None
    path, what = found
    hint = of_another_user(private)
    if hint is not None:
        return KvmComposeError(f"{str(path)!r} {what}", hint=hint)
    there = shlex.quote(str(path))
    return KvmComposeError(
        f"{str(path)!r} {what}: it is not used",
        hint=f"inspect it, and move it away: mv {there} {there}.found",
    )


def of_another_user(private: Path) -> str | None:
    """Return a hint when the folder is root's, and this user may not write in it."""
    try:
        status = private.lstat()
    except OSError:
        return None
    if (
        status.st_uid != 0
        or not stat.S_ISDIR(status.st_mode)
        or os.access(private, os.W_OK | os.X_OK, effective_ids=True)
    ):
        return None
    us, project = f"{os.geteuid()}:{os.getegid()}", shlex.quote(str(private.parent))
    return f"root built this project: use sudo, or take it over: sudo chown -R {us} {project}"


def foreign(private: Path) -> tuple[Path, str] | None:
    """Return the first path that kvm-compose did not create, and why not, or None. Follows no link."""
    try:
        status = private.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return private, f"cannot be inspected ({error.strerror})"
    owners = {os.geteuid(), 0}  # root's server keeps files there
    if os.geteuid() == 0:  # root may work in a project of another user
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
        return f"cannot be inspected ({error.strerror})"
    if status.st_uid not in owners:
        return f"belongs to another user ({status.st_uid})"
    return flaw(status)


def prepare(private: Path) -> None:
    """Create or check the private folder before a build; only its owner gets access.

    Raises KvmComposeError when it was not created by kvm-compose, OSError.
    """
    refuse_foreign(private)
    private.parent.mkdir(parents=True, exist_ok=True)
    try:
        private.mkdir(mode=0o700)
    except FileExistsError:
        refuse_foreign(private)
    folder = open_folder(private)
    try:
        with suppress(OSError):  # on a read-only file system opening the ledger fails later
            if os.fstat(folder).st_mode & 0o077:
                os.fchmod(folder, 0o700)
            for name in _OURS | _SPARE:
                _tighten(folder, name)
        if ".gitignore" not in os.listdir(folder):  # noqa: PTH208 (a descriptor)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with suppress(OSError):  # created by another build meanwhile, or as above
                handle = os.open(".gitignore", flags, 0o600, dir_fd=folder)
                with os.fdopen(handle, "wb") as file:
                    file.write(b"*\n")
    finally:
        os.close(folder)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file in a private folder completely or not at all, following no link. Raises OSError."""
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
    """Remove a file in a private folder, if both exist; follows no link. Raises OSError."""
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
    """Remove all permissions of group and others from a file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, dir_fd=folder)
    except OSError:  # it does not exist, or is a spare one of another user
        return
    try:
        status = os.fstat(handle)
        ours = status.st_uid == os.geteuid() or os.geteuid() == 0
        if ours and stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_mode & 0o077:
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
