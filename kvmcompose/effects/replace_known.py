"""Replace a file that a user has read and edited elsewhere, unless it has changed meanwhile."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.files import STAGED_PREFIX, digest_bytes, seal
from kvmcompose.effects.opening import open_folder, open_regular, read_descriptor

#: The largest file that is replaced, in bytes.
_LIMIT = 64 << 20


def replace_known(path: Path, digest: str, data: bytes) -> None:
    """Replace the content of a regular file whose SHA-256 is ``digest``; its mode and owner stay.

    A link is not followed: it may lead out of the folder. The folder is opened once, so nothing that happens
    to its path afterwards redirects the write. Raises RefusedError for another content or a link,
    KvmComposeError.
    """
    try:
        folder = open_folder(path.parent, follow=True)
    except OSError as error:
        raise _failed(path, error) from error
    try:
        _replace(folder, path, digest, data)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        os.close(folder)


def _replace(folder: int, path: Path, digest: str, data: bytes) -> None:
    status = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise RefusedError(f"{path.name} is a link: what it leads to is not replaced", hint=f"ls -l {path}")
    handle = open_regular(path.name, within=folder, follow=False)
    try:
        known = read_descriptor(handle, _LIMIT, path.name)
        status = os.fstat(handle)
    finally:
        os.close(handle)
    if digest_bytes(known) != digest:
        raise RefusedError(
            f"{path.name} has changed since it was read", hint="read it again, and make the change there"
        )
    staged = f"{STAGED_PREFIX}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(staged, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(data)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):  # only root may give files away
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
            seal(file, stat.S_IMODE(status.st_mode) & 0o777)
            os.fsync(file.fileno())
        os.replace(staged, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=folder)
        raise
    os.fsync(folder)


def _failed(path: Path, error: OSError) -> KvmComposeError:
    return KvmComposeError(f"cannot write {str(path)!r}: {(error.strerror or str(error)).lower()}")
