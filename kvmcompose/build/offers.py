"""New versions of edited files, written next to them as ``.new``: which are still unchanged.

The ledger notes the digests of the recipe and of the content of each. Any other content is the user's: a
merge made in the natural place, or a file of their own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container
from pathlib import Path

from kvmcompose.build.ledger import LedgerEntry
from kvmcompose.effects.files import digest_file
from kvmcompose.effects.stat_cache import Signature


def offer_of(recipe: str, content: str) -> str:
    """What is noted of a ``.new`` file, from two digests."""
    return f"{recipe} {content}"


def offered_recipe(record: LedgerEntry) -> str | None:
    """The recipe of the ``.new`` file that was last offered, None when none was."""
    return record.offered.partition(" ")[0] if record.offered else None


def offered_content(record: LedgerEntry | None) -> str | None:
    """The content of the ``.new`` file that was last offered; None as well where version 0.1 offered it."""
    return (record.offered or "").partition(" ")[2] or None if record is not None else None


def as_offered(path: str, contents: Container[str | None]) -> Signature | None:
    """The signature of a ``.new`` file that has one of these digests; None for one of the user's."""
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and digest_file(Path(path)) in contents:
            return Signature.of(status)
    except OSError:  # it cannot be read
        pass
    return None


def use_or_remove(folder: Path, name: str) -> str:
    """Return what to do with a ``.new`` file of the user's in the way of an offer."""
    if not (folder / name).is_file():
        return f"it is not a file; move {name} away"
    return f"to use it, mv {name} {name.removesuffix('.new')}; or remove it to be offered the new version"
