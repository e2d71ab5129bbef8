"""Whether QEMU has a file open, by the locks that it holds.

QEMU locks a byte of each file that it opens for each of its permissions, and one for each that it grants to
no other program (block/file-posix.c: RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE), whatever is in the file and
even if guests share it. Nothing is read, and no program has to guess a format.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from kvmcompose.effects.opening import open_regular

_FIRST = 100
_COUNT = 200
#: struct flock with offsets of 64 bits (fcntl(2)): type, whence, start, length, process.
_FLOCK = struct.Struct("@hhqqi4x")


def is_open_in_qemu(path: Path) -> bool:
    """Return whether QEMU, or one of its programs, has a regular file open. Raises OSError."""
    handle = open_regular(path)
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST, _COUNT, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(handle, fcntl.F_OFD_GETLK, asked))
    finally:
        os.close(handle)
    return bool(kind != fcntl.F_UNLCK)
