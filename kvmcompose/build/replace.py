"""Puts a finished file in its place without losing what was written there meanwhile.

``rename`` replaces what is there, whatever it is by now. Linux can exchange two names in one step, and rename
only where nothing is in the way (renameat2(2), RENAME_EXCHANGE and RENAME_NOREPLACE): so what was displaced
can be checked before it is removed, and put back.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from kvmcompose.effects.stat_cache import Signature

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
#: What the kernel, the C library or a file system say that has no such rename.
_LACKING = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})

_library = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_library, "renameat2", None)


def _rename(source: str, target: str, flags: int) -> bool:
    """Rename with flags (renameat2(2)). Returns False where that is not supported. Raises OSError."""
    if _renameat2 is None:
        return False
    if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _LACKING:
        return False
    raise OSError(number, os.strerror(number), source, None, target)


def move_new(source: str, target: str) -> None:
    """Rename a file to a free name. Raises FileExistsError if it is taken, OSError."""
    if _rename(source, target, _NOREPLACE):
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # no links there either: this is all that can be done
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(source, target)  # noqa: PTH104 (strings, many thousand times)
    else:
        os.unlink(source)  # noqa: PTH108 (as above)


def seen_at(path: str) -> Signature | None:
    """What is at a path, links not followed; None for nothing."""
    try:
        return Signature.of(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def alike(one: Signature | None, other: Signature | None) -> bool:
    """Return whether a file is the same and not written since. Rename, link and chmod change only ctime."""
    if one is None or other is None:
        return one is other
    return (one.size, one.mtime_ns, one.inode) == (other.size, other.mtime_ns, other.inode)


def put(staged: str, path: str, seen: Signature | None) -> bool:
    """Put a staged file at a path where ``seen`` was (None: nothing), which goes.

    False when something else is there by now: then it is left, and the staged file, too. Raises OSError.
    """
    if seen is None:
        try:
            move_new(staged, path)
        except FileExistsError:
            return False
        return True
    found = seen_at(path)
    if found is None:
        return put(staged, path, None)
    if not alike(found, seen):
        return False
    ours = seen_at(staged)
    if not _rename(staged, path, _EXCHANGE):
        os.replace(staged, path)  # noqa: PTH105 (as above)
        return True
    if alike(seen_at(staged), seen):
        os.unlink(staged)  # noqa: PTH108 (as above)
        return True
    # written to in between: swap back; if our file was edited meanwhile, keep that edit, too
    _rename(staged, path, _EXCHANGE)
    if not alike(seen_at(staged), ours):
        keep_as(staged, f"{path}.orig")
    return False


def take_away(path: str, aside: str, seen: Signature) -> bool:
    """Remove the file that was ``seen`` at a path; ``aside`` is a free name in the same folder.

    False when something else is there by now, which stays. Raises OSError.
    """
    found = seen_at(path)
    if found is None:
        return True
    if not alike(found, seen):
        return False
    os.rename(path, aside)  # noqa: PTH104 (as above)
    if alike(seen_at(aside), seen):
        os.unlink(aside)  # noqa: PTH108 (as above)
        return True
    try:
        move_new(aside, path)
    except FileExistsError:
        keep_as(aside, f"{path}.orig")
    return False


def _numbered(path: str, name: str, act: Callable[[str, str], None]) -> str:
    number = 0
    while True:
        kept = f"{name}.{number}" if number else name
        try:
            act(path, kept)
        except FileExistsError:
            number += 1
        else:
            return kept


def keep_as(path: str, name: str) -> str:
    """Rename a file to ``name``, or ``name.1`` and so on if it is taken, and return the new name."""
    return _numbered(path, name, move_new)


def keep_copy(path: str) -> None:
    """Keep a file as ``.orig`` (numbered, as above) while it stays where it is, as another link to it."""

    def link(source: str, target: str) -> None:
        os.link(source, target, follow_symlinks=False)

    _numbered(path, f"{path}.orig", link)
