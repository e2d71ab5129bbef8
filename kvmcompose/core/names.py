"""Names and numbers derived from other names: stable, unique, short enough for what they become."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import count, islice

#: Linux network interfaces: IFNAMSIZ is 16 bytes with the closing zero (linux/if.h).
INTERFACE_NAME_LIMIT = 15
#: One label of a host name (RFC 1035, section 2.3.4).
HOSTNAME_LIMIT = 63

#: How many stand-ins for one name are looked at. That the first is taken is one in 16 millions.
_ATTEMPTS = 4

PROJECT_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}(?<!-)")


def stable_number(*words: str | int) -> int:
    """A number of 128 bits that depends on the words alone."""
    text = "\0".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def project_name_from(folder_name: str) -> str:
    """The project name for a folder: lower case, everything that cannot be in a host name as ``-``."""
    name = re.sub(r"[^a-z0-9]+", "-", folder_name.lower()).strip("-")
    if name and not name[0].isalpha():
        name = f"p-{name}"
    return name[:40].rstrip("-") or "testbed"


def some(names: Sequence[str | int], most: int = 6) -> str:
    """So many of them as are read in one message: ``a, b, c and 40 more``."""
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


class UniqueNames:
    """Hands out names of a limited length, each one once.

    Names that fit are given as they are; longer ones, and those already taken, end in a hash of the
    whole name, so that they stay the same from build to build.
    """

    def __init__(self, limit: int = INTERFACE_NAME_LIMIT) -> None:
        self._limit = limit
        self._taken: set[str] = set()

    def name(self, wanted: str) -> str:
        """``wanted`` itself or a shorter stand-in that nobody else has."""
        for candidate in self._candidates(wanted):
            if candidate not in self._taken:
                self._taken.add(candidate)
                return candidate
        raise AssertionError  # the candidates do not end

    def _candidates(self, wanted: str) -> Iterator[str]:
        return _candidates(wanted, self._limit)


def is_derived(name: str, wanted: str, limit: int = INTERFACE_NAME_LIMIT) -> bool:
    """Whether ``name`` is one that ``UniqueNames`` gives for ``wanted``."""
    return name in islice(_candidates(wanted, limit), _ATTEMPTS)


def _candidates(wanted: str, limit: int) -> Iterator[str]:
    if len(wanted) <= limit:
        yield wanted
    for attempt in count():
        suffix = f"-{stable_number(wanted, attempt) % 16**6:06x}"
        yield wanted[: limit - len(suffix)].rstrip("-") + suffix
