"""mount(2): there are some hundred calls per host, too many for a process each."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_MOVE, MS_REC = 2, 4, 8, 4096, 8192, 16384
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    texts = [os.fsencode(text) for text in (source, target, kind)]
    if _libc.mount(*texts, flags, data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def unmount(target: str | Path) -> None:
    """Hide what is mounted there, if anything; what is in use goes when it is not any more."""
    _libc.umount2(os.fsencode(target), MNT_DETACH)
