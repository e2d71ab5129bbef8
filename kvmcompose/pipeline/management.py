"""``testbed_options.management``: the isolated guests that the server reaches."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest, Management

_WILDCARDS = frozenset("*?[")


def management(value: Any, guests: Sequence[Guest]) -> Management | None:
    """Return what the YAML says, with the exceptions as names of guests; None when it is off."""
    if isinstance(value, dict):
        patterns = value.get("except", ())
        return Management(frozenset(guest.name for guest in guests if _is_one_of(guest, patterns)))
    return Management() if value else None


def check_exceptions(value: Any, guests: Sequence[Guest]) -> Iterator[Complaint]:
    """Yield the exceptions that match no guest."""
    patterns = value.get("except", ()) if isinstance(value, dict) else ()
    for index, pattern in enumerate(patterns):
        if any(_is_one_of(guest, (pattern,)) for guest in guests):
            continue
        names = dict.fromkeys(name for guest in guests for name in (guest.machine.name, guest.name))
        near = [] if _WILDCARDS & set(pattern) else difflib.get_close_matches(pattern, names, 1)
        yield Complaint(
            code="unknown-guest",
            path=("testbed_options", "management", "except", index),
            message=f"there is no guest {pattern!r}",
            wanted="the name of a guest or of a machine (for all its clones), or a pattern of names",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )


def _is_one_of(guest: Guest, patterns: Sequence[str]) -> bool:
    return any(
        fnmatchcase(name, pattern) for pattern in patterns for name in (guest.name, guest.machine.name)
    )
