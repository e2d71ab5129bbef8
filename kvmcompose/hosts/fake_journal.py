"""Where simulated hosts are saved: a file with all of them, and beside it the changes since, in order.

A server of thousands of guests changes one thing at a time, and may be killed after any of them. So a change
is one line appended to a journal: its path and the new value, as JSON; null where it was removed. Loading
replays the journal. A change says what there is, not what was done: replaying it twice is harmless, so a
server may be killed between writing the file and removing the journal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.effects.files import write_atomic

#: A journal larger than this, in bytes, and several times as large as the file is replaced by it.
_LEAST = 1 << 20
_TIMES = 4


class Journal:
    """The file of a world, and the journal beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changes = path.with_name(f"{path.name}.changes")
        self._handle: int | None = None
        self._size = 0
        self._most = _LEAST

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, as JSON has it; None when nothing was."""
        saved: dict[str, Any] | None = None
        if self.path.exists():
            saved = msgspec.json.decode(self.path.read_bytes(), type=dict[str, Any])
        if self._changes.exists():
            saved = saved or {}
            *lines, rest = self._changes.read_bytes().split(b"\n")
            if rest:  # a change that was cut off
                os.truncate(self._changes, self._changes.stat().st_size - len(rest))
            self._size = self._changes.stat().st_size
            for line in lines:
                path, value = msgspec.json.decode(line, type=tuple[tuple[str, ...], Any])
                _set(saved, path, value)
        return saved

    def append(self, changes: Mapping[tuple[str, ...], Any]) -> bool:
        """Append changes; return whether the journal has become so large that all should be saved."""
        content = b"".join(msgspec.json.encode(change) + b"\n" for change in changes.items())
        if self._handle is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._changes, flags, 0o600)
        os.write(self._handle, content)
        self._size += len(content)
        return self._size > self._most

    def save(self, everything: object) -> None:
        """Write the file; nothing before it counts any more."""
        content = msgspec.json.encode(everything)
        write_atomic(self.path, content, mode=0o600)
        self.close()
        self._changes.unlink(missing_ok=True)
        self._size, self._most = 0, max(_LEAST, _TIMES * len(content))

    def close(self) -> None:
        """Close the journal; what was appended is kept."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for key in parents:
        if value is None and key not in tree:
            return
        tree = tree.setdefault(key, {})
    if value is None:
        tree.pop(last, None)
    else:
        tree[last] = value
