"""Locks of open files (flock(2)), which end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

#: What file systems without locks say: NFS without lockd, FUSE, 9p.
_LACKING = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def lock(handle: int, path: Path, *, wait: bool = True) -> None:
    """Lock the open file at ``path``. Raises OSError, which names it; without ``wait`` BlockingIOError."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        why = os.strerror(error.errno or 0)
        if error.errno in _LACKING:
            why = f"the file system cannot lock files ({why})"
        raise OSError(error.errno, why, str(path)) from error
