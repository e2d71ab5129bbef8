"""Allow one build at a time in a project, by a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.locking import lock
from kvmcompose.effects.private import of_another_user

#: The longest time (seconds) that a mere check for a running build holds the lock.
_MOMENT = 0.02


def _try_twice(handle: int, path: Path) -> None:
    """Take the lock. Raises BlockingIOError when a build has it, OSError."""
    try:
        lock(handle, path, wait=False)
    except BlockingIOError:
        time.sleep(_MOMENT)
        lock(handle, path, wait=False)


def _take(handle: int, path: Path, waiting: Callable[[str], None] | None) -> None:
    """Take the lock; see ``build_lock``. Raises OSError."""
    try:
        _try_twice(handle, path)
    except BlockingIOError:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        if waiting is None:
            raise RefusedError(
                f"another build runs in this project (process {holder})",
                hint="wait until it has ended, or build without --no-wait",
            ) from None
        waiting(holder)
        lock(handle, path)


@contextlib.contextmanager
def build_lock(path: Path, *, waiting: Callable[[str], None] | None) -> Iterator[None]:
    """Hold the lock file while the block runs.

    If another process holds it, ``waiting`` is called with its id and the call blocks; without ``waiting``
    RefusedError is raised. The kernel gives the lock back when its holder dies, however it dies.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a link in its place would be truncated below, and opening a named pipe would wait
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        raise KvmComposeError(
            f"cannot lock the project: {path}: {error.strerror}", hint=of_another_user(path.parent)
        ) from error
    try:
        try:
            _take(handle, path, waiting)
        except OSError as error:
            raise KvmComposeError(
                f"cannot lock the project: {path}: {error.strerror}",
                hint="kvm-compose needs flock(2): build on a local file system",
            ) from error
        with contextlib.suppress(OSError):  # it is for others to read, and a full disk has no room for it
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
