"""Count the files that a command opens and inspects in this process: the same on every machine."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Counts:
    """How often each path was opened for reading, opened for writing, and inspected (stat)."""

    read: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)
    #: What ``open`` was just asked for: an opener that it calls asks for that again.
    asked: str | None = None


_current: Counts | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578), which no way of opening a file can bypass."""
    if _current is None or event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    flags = arguments[2] if isinstance(arguments[2], int) else 0
    path, by_os_open = os.fsdecode(arguments[0]), arguments[1] is None
    if by_os_open and path == _current.asked:
        return
    _current.asked = None if by_os_open else path
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    (_current.written if writes else _current.read)[path] += 1


sys.addaudithook(_hear)  # an audit hook cannot be removed, only disabled


@contextmanager
def counted() -> Iterator[Counts]:
    """Count the accesses of the block."""
    global _current  # noqa: PLW0603 (what the hook asks)
    counts = Counts()

    def counting(look: Any) -> Any:
        def looked(path: Any, *rest: Any, **options: Any) -> os.stat_result:
            if not isinstance(path, int):
                counts.looked_at[os.fsdecode(path)] += 1
            status: os.stat_result = look(path, *rest, **options)
            return status

        return looked

    with pytest.MonkeyPatch.context() as patch:
        # there is no audit event for stat
        patch.setattr(os, "stat", counting(os.stat))
        patch.setattr(os, "lstat", counting(os.lstat))
        _current = counts
        try:
            yield counts
        finally:
            _current = None
