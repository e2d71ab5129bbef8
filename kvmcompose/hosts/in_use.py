"""The record of the files that guests use that are up: builds and ``clean`` keep them.

The server writes it, as only it knows what is up; builds ask no server. A member's testbed runs from copies,
and has no record.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from kvmcompose.effects import private
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular

_IN_USE = ".kvm-compose/in-use.json"
#: Why a file is kept.
WHY = "its guest is up: kvm-compose up or down stops it first"


def read_in_use(folder: Path) -> frozenset[str]:
    """Return the paths of files in use; nothing when the record cannot be read."""
    try:
        noted = read_regular(folder / _IN_USE, limit=DOCUMENT_LIMIT, follow=False)
        return frozenset(msgspec.json.decode(noted, type=list[str]))
    except (OSError, msgspec.MsgspecError):
        return frozenset()


def write_in_use(folder: Path, paths: Iterable[str]) -> None:
    """Record the files in use. Raises OSError."""
    wanted = frozenset(paths)
    if wanted != read_in_use(folder):
        private.write(folder / _IN_USE, msgspec.json.encode(sorted(wanted)))


def forget_in_use(folder: Path) -> None:
    """Record that nothing is up. Raises OSError."""
    private.remove(folder / _IN_USE)
