"""The one door to files that somebody else may have put there: a lab, another user, a client.

What is opened is looked at through its descriptor, so it cannot be exchanged between the look and the use. A
named pipe, a device or a socket is never opened, only looked at: opening some of them waits for somebody, and
opening some devices does something (open(2), ``O_PATH``). Reading ends at a limit that the caller names, so a
sparse file of a terabyte costs nothing.

It imports next to nothing, as the short way of the command line reads through it, too.
"""

from __future__ import annotations

import errno
import os
import stat

#: What a JSON document of ours may have at the most, in bytes: ``state.json``, notes, records.
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
    """What has that name is no regular file: a folder, a link, a pipe, a socket, a device."""


class TooLargeError(OSError):
    """A file is larger than the limit of whoever reads it."""


def kind_of(mode: int) -> str:
    """What a mode (``st_mode``) says that something is, with its article."""
    return next((name for is_it, name in _KINDS if is_it(mode)), "a file")


def open_regular(path: str | os.PathLike[str], *, within: int | None = None, follow: bool = True) -> int:
    """A descriptor to read a regular file by. Nothing else is opened, and nothing is waited for.

    ``within`` is the descriptor of the folder that a relative path starts from. Without ``follow`` a link in
    the last place is refused; links before that are refused by ``open_below`` alone. Raises OSError; that is
    NotRegularError for what is no regular file.
    """
    look = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), dir_fd=within)
    try:
        return reopen_regular(look, os.fspath(path))
    finally:
        os.close(look)


def reopen_regular(look: int, name: str) -> int:
    """The same for what an ``O_PATH`` descriptor stands for; ``name`` is for the error."""
    mode = os.fstat(look).st_mode
    if stat.S_ISDIR(mode):
        raise NotRegularError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        raise NotRegularError(errno.EINVAL, f"it is {kind_of(mode)}, not a regular file", name)
    try:
        # O_NONBLOCK: some regular files of /proc wait for news
        return os.open(f"/proc/self/fd/{look}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        error.filename = name
        raise


def read_descriptor(handle: int, limit: int, name: str) -> bytes:
    """All bytes of a file, from where its descriptor is. Raises TooLargeError beyond ``limit`` bytes."""
    pieces = []
    left = limit + 1
    try:
        size = os.fstat(handle).st_size
        if size <= limit:
            while left and (piece := os.read(handle, min(left, max(size + 1, _PIECE)))):
                pieces.append(piece)
                left -= len(piece)
    except OSError as error:
        error.filename = name  # reading does not tell
        raise
    if size > limit or not left:
        raise TooLargeError(errno.EFBIG, f"it is larger than {_in_words(limit)}", name)
    return b"".join(pieces)


def read_regular(
    path: str | os.PathLike[str], *, limit: int, within: int | None = None, follow: bool = True
) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; see ``open_regular``. Raises OSError."""
    handle = open_regular(path, within=within, follow=follow)
    try:
        return read_descriptor(handle, limit, os.fspath(path))
    finally:
        os.close(handle)


def open_folder(path: str | os.PathLike[str], *, within: int | None = None, follow: bool = False) -> int:
    """A descriptor of a folder, to open by and to list; no link unless ``follow``. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    return os.open(path, flags, dir_fd=within)


def open_below(folder: int, path: str, flags: int, mode: int = 0o600) -> int:
    """Open what lies below a folder that is open: no link is followed, in no place of ``path``.

    Each folder on the way is opened by the one before, so nobody who may write there can make this lead
    elsewhere. (``openat2`` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS promises the same of a path without
    "..", but containers may forbid it.) Raises OSError: ENOTDIR or ELOOP for a link, EINVAL for a path that
    is absolute, empty, or goes up.
    """
    steps = path.split("/")
    if not {"", ".", ".."}.isdisjoint(steps):
        raise OSError(errno.EINVAL, "it is no path below a folder", path)
    *way, name = steps
    here = folder
    try:
        for step in way:
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
    """A descriptor to read a regular file below a folder by; no link is followed. Raises OSError."""
    look = open_below(folder, path, os.O_PATH)
    try:
        return reopen_regular(look, path)
    finally:
        os.close(look)


def read_below(folder: int, path: str, *, limit: int) -> bytes:
    """The bytes of a regular file below a folder that is open; no link is followed. Raises OSError."""
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
