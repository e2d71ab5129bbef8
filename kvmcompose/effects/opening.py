"""Open files that others may have created: a lab, another user, a client. All such files are opened here.

A file is inspected through its descriptor, so it cannot be replaced between the inspection and the use. Named
pipes, devices and sockets are inspected but never opened: opening a pipe may block, and opening some devices
has effects (open(2), ``O_PATH``). Reading stops at a limit set by the caller, so a sparse file of a terabyte
costs nothing.

This module imports little, as the check whether a build is needed at all uses it, too.
"""

from __future__ import annotations

import errno
import os
import stat

#: The largest JSON document of ours that is read, in bytes: ``state.json``, the index, records.
DOCUMENT_LIMIT = 1 << 28
_PIECE = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """Not a regular file, but a folder, link, pipe, socket or device."""


class TooLargeError(OSError):
    """A file is larger than the caller's limit."""


def kind_of(mode: int) -> str:
    """Return the type of file that a mode (``st_mode``) encodes, with an article."""
    return next((name for is_it, name in _KINDS if is_it(mode)), "a file")


def flaw(status: os.stat_result) -> str | None:
    """Describe why a file is not a regular file with a single name; None if it is."""
    if not stat.S_ISREG(status.st_mode):
        return f"is {kind_of(status.st_mode)}, not a regular file"
    return "has another name, too (a hard link)" if status.st_nlink > 1 else None


def open_regular(path: str | os.PathLike[str], *, within: int | None = None, follow: bool = True) -> int:
    """Open a regular file for reading, without blocking, and return its descriptor.

    ``within`` is the descriptor of the folder that a relative path starts from. Without ``follow`` a link as
    the last component is refused; only ``open_below`` refuses links in other components. Raises OSError:
    NotRegularError for anything but a regular file.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), dir_fd=within)
    try:
        return _reopen_regular(handle, os.fspath(path))
    finally:
        os.close(handle)


def _reopen_regular(handle: int, name: str) -> int:
    """Open the regular file that an ``O_PATH`` descriptor refers to; ``name`` is for errors."""
    mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode):
        raise NotRegularError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        raise NotRegularError(errno.EINVAL, f"it is {kind_of(mode)}, not a regular file", name)
    try:
        # O_NONBLOCK: some regular files in /proc block until there is news
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        error.filename = name
        raise


def read_descriptor(handle: int, limit: int, name: str) -> bytes:
    """Read a file from its descriptor's offset to its end. Raises TooLargeError beyond ``limit`` bytes."""
    pieces = []
    left = limit + 1
    try:
        size = os.fstat(handle).st_size
        if size <= limit:
            while left and (piece := os.read(handle, min(left, max(size + 1, _PIECE)))):
                pieces.append(piece)
                left -= len(piece)
    except OSError as error:
        error.filename = name  # errors of reading have none
        raise
    if size > limit or not left:
        raise TooLargeError(errno.EFBIG, f"it is larger than {_in_words(limit)}", name)
    return b"".join(pieces)


def read_regular(path: str | os.PathLike[str], *, limit: int, follow: bool = True) -> bytes:
    """Read a regular file of at most ``limit`` bytes; see ``open_regular``. Raises OSError."""
    handle = open_regular(path, follow=follow)
    try:
        return read_descriptor(handle, limit, os.fspath(path))
    finally:
        os.close(handle)


def open_folder(path: str | os.PathLike[str], *, within: int | None = None, follow: bool = False) -> int:
    """Open a folder, to list it and to open files in it; no link unless ``follow``. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    return os.open(path, flags, dir_fd=within)


def open_below(folder: int, path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file below an open folder, following no link in any component of ``path``.

    Each folder is opened relative to its parent, so a user who can write to them cannot redirect the path.
    (``openat2`` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS guarantees the same of a path without "..", but
    containers may forbid it.) Raises OSError: ENOTDIR or ELOOP for a link, EINVAL for a path that is
    absolute, empty, or contains ``..``.
    """
    steps = path.split("/")
    if not {"", ".", ".."}.isdisjoint(steps):
        raise OSError(errno.EINVAL, "it is not a path below the folder", path)
    *parents, name = steps
    here = folder
    try:
        for step in parents:
            below = os.open(step, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            if here != folder:
                os.close(here)
            here = below
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=here)
    except OSError as error:
        error.filename = path
        raise
    finally:
        if here != folder:
            os.close(here)


def open_regular_below(folder: int, path: str) -> int:
    """Open a regular file below an open folder for reading; no link is followed. Raises OSError."""
    handle = open_below(folder, path, os.O_PATH)
    try:
        return _reopen_regular(handle, path)
    finally:
        os.close(handle)


def read_below(folder: int, path: str, *, limit: int) -> bytes:
    """Read a regular file below an open folder; no link is followed. Raises OSError."""
    handle = open_regular_below(folder, path)
    try:
        return read_descriptor(handle, limit, path)
    finally:
        os.close(handle)


def _in_words(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):g} {unit}"
    return f"{size} bytes"
