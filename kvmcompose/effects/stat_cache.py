"""Digests of files, cached by the results of ``stat``, so that large files are not read by every build.

A cached digest is valid while size, both times and inode are the same, and only if it was taken well after
the file last changed: two changes within one tick of the file system's clock cannot be distinguished.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from kvmcompose.effects.files import digest_file

#: The clock for time stamps of files ticks every 1 to 10 ms in Linux; some file systems store coarser times.
_TICK_NS = 20_000_000

T = TypeVar("T")


class Signature(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Results of ``stat``; times in nanoseconds. Users cannot set a ctime back."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @staticmethod
    def of(status: os.stat_result) -> Signature:
        """Return the signature of a ``stat`` result."""
        return Signature(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def settled(self, now_ns: int) -> bool:
        """Return whether a change after ``now_ns`` would show: the last one is more than a tick older."""
        return max(self.mtime_ns, self.ctime_ns) + _TICK_NS < now_ns

    def or_unsettled(self) -> Signature:
        """Return the signature if a later change would show in it; else one that matches no file."""
        return self if self.settled(time.time_ns()) else Signature(self.size, -1, -1, -1)


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A digest, and the signature of the file when it was taken."""

    signature: Signature
    digest: str


class StatMemo(Generic[T]):
    """What was read from files, by path, for a process that asks for it again and again.

    ``read`` is called with a path only if the file may have changed since. At most ``most`` are kept.
    """

    def __init__(self, read: Callable[[str], T], most: int) -> None:
        self._read = read
        self._most = most
        self._known: dict[str, tuple[Signature, T]] = {}
        self._guard = threading.Lock()

    def get(self, name: str, handle: int | None = None) -> T:
        """Return what is in a file, by its path. Raises OSError, and what ``read`` raises.

        ``handle`` is a descriptor of the file, for one whose path others may change.
        """
        place = name if handle is None else f"/proc/self/fd/{handle}"
        signature = Signature.of(os.stat(place))  # noqa: PTH116
        known = self._known.get(name)
        if known is not None and known[0] == signature:
            return known[1]
        started = time.time_ns()
        found = self._read(place)
        if signature.settled(started) and Signature.of(os.stat(place)) == signature:  # noqa: PTH116
            with self._guard:
                self._known.pop(name, None)  # so that it is the newest
                self._known[name] = signature, found
                while len(self._known) > self._most:
                    del self._known[next(iter(self._known))]
        return found


class StatCache:
    """Digests by absolute path. ``fresh`` contains those that the next build may use."""

    def __init__(self, known: Iterable[tuple[str, Remembered]] = ()) -> None:
        self._source = known
        self._this_run: dict[str, str] = {}
        self.fresh: dict[str, Remembered] = {}

    @cached_property
    def _known(self) -> dict[str, Remembered]:
        return dict(self._source)  # read from the ledger only when needed

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file's content. Raises OSError."""
        return self.digest_of(str(path.resolve()))

    def digest_of(self, name: str) -> str:
        """Return the SHA-256 of the content of a file, by its path without links. Raises OSError."""
        return self.found_in(name, "", lambda: digest_file(name))

    def found_in(self, name: str, what: str, read: Callable[[], str]) -> str:
        """Return what ``read`` finds in a file, whose path has no links: the digest of ``what`` in it.

        It is called only if the file may have changed since. Raises OSError, and what ``read`` raises.
        """
        key = f"{name}#{what}" if what else name
        if key in self._this_run:
            return self._this_run[key]
        signature = Signature.of(os.stat(name))  # noqa: PTH116
        known = self._known.get(key)
        if known is not None and known.signature == signature:
            digest = known.digest
        else:
            started = time.time_ns()
            digest = read()
            # the ledger (SQLite) cannot store a name that is not UTF-8
            if key.isprintable() and signature.settled(started) and Signature.of(os.stat(name)) == signature:  # noqa: PTH116
                self.fresh[key] = Remembered(signature, digest)
        self._this_run[key] = digest
        return digest

    def forget_run(self) -> None:
        """Check every file again from now on."""
        self._this_run.clear()
