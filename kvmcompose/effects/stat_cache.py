"""Digests of files, remembered by what ``stat`` says, so that a large file is read once and not per build.

A remembered digest is used while size, both times and inode are as they were, and only if it was taken
well after the file last changed: two changes within one tick of the file system's clock look alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import msgspec

from kvmcompose.effects.files import digest_file

#: Linux stamps files with a clock that ticks every 1 to 10 ms; some file systems keep coarser times.
_TICK_NS = 20_000_000


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """What ``stat`` says of a file; times in nanoseconds. ctime cannot be put back by a user."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @staticmethod
    def of(status: os.stat_result) -> Signature:
        """The signature of a ``stat`` result."""
        return Signature(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def settled(self, now_ns: int) -> bool:
        """Whether a change after ``now_ns`` would show: the last one lies further back than one tick."""
        return max(self.mtime_ns, self.ctime_ns) + _TICK_NS < now_ns

    def or_unsettled(self) -> Signature:
        """The signature, if a change from now on would show in it; else one that no file has.

        Whoever recorded that must look again, but knows the size.
        """
        return self if self.settled(time.time_ns()) else Signature(self.size, -1, -1, -1)


class Remembered(msgspec.Struct, frozen=True, array_like=True):
    """A digest and the signature it was taken under."""

    signature: Signature
    digest: str


class StatCache:
    """Digests by absolute path. ``fresh`` holds those that are worth keeping for the next build."""

    def __init__(self, known: Iterable[tuple[str, Remembered]] = ()) -> None:
        self._source = known
        self._this_run: dict[str, str] = {}
        self.fresh: dict[str, Remembered] = {}

    @cached_property
    def _known(self) -> dict[str, Remembered]:
        return dict(self._source)  # where they come from is not asked before there is need

    def digest(self, path: Path) -> str:
        """The SHA-256 of a file's content as it is now. Raises OSError."""
        name = str(path.resolve())
        if name in self._this_run:
            return self._this_run[name]
        signature = Signature.of(os.stat(name))  # noqa: PTH116
        known = self._known.get(name)
        if known is not None and known.signature == signature:
            digest = known.digest
        else:
            started = time.time_ns()
            digest = digest_file(Path(name))
            # SQLite, where it is kept, has no room for a name that is not UTF-8
            if name.isprintable() and signature.settled(started) and Signature.of(os.stat(name)) == signature:  # noqa: PTH116
                self.fresh[name] = Remembered(signature, digest)
        self._this_run[name] = digest
        return digest

    def forget_run(self) -> None:
        """Look at every file again from now on."""
        self._this_run.clear()
