"""Which of a server's calls to fake hosts are made to fail, or are where it is cancelled or killed.

A testbed of seven guests makes the same call many times. ``make test`` takes one of each kind, the first;
``make test-long`` takes all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))


def kind(call: str) -> tuple[bool, str, str]:
    """Return whether a call is one to another host than the main one, its verb, and of a file its suffix."""
    place, _, target = call.partition(":")
    host, _, verb = place.rpartition("/")
    return bool(host), verb, PurePosixPath(target).suffix


def first_of_kinds(calls: Sequence[str]) -> list[int]:
    """Return the positions of the calls that are tried."""
    return list(range(len(calls)) if _LONG else _firsts(calls))


def _firsts(calls: Sequence[str]) -> Iterator[int]:
    known = set()
    for at, call in enumerate(calls):
        if kind(call) not in known:
            known.add(kind(call))
            yield at
