"""Derive names and numbers from other names: stable, unique, and within the length limits of their use."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

#: Linux network interfaces: IFNAMSIZ is 16 bytes with the closing zero (linux/if.h).
INTERFACE_NAME_LIMIT = 15
#: One label of a host name (RFC 1035, section 2.3.4).
HOSTNAME_LIMIT = 63

#: How many derived names ``is_derived`` compares. The first one is taken with a probability of 1 in 16
#: million.
_ATTEMPTS = 4

PROJECT_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}(?<!-)")


def stable_number(*words: str | int) -> int:
    """Return a number of 128 bits that depends only on the words."""
    text = "\0".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def project_name_from(folder_name: str) -> str:
    """Return the project name for a folder: lower case, with ``-`` for characters invalid in host names."""
    name = re.sub(r"[^a-z0-9]+", "-", folder_name.lower()).strip("-")
    if name and not name[0].isalpha():
        name = f"p-{name}"
    return name[:40].rstrip("-") or "testbed"


def management_namespace(project: str, segment: str) -> str:
    """Return the name of the network namespace of a management port; it shows the project."""
    return f"{management_prefix(project)}{segment}"


def management_prefix(project: str) -> str:
    """Return what the names of a project's namespaces begin with, and those of no other project.

    Neither projects nor segments have a dot in their names.
    """
    return f"kvm-compose.{project}."


def first_few(names: Sequence[str | int], most: int = 6) -> str:
    """Return the first ``most`` names for a message: ``a, b, c and 40 more``."""
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def near_names(name: str, known: Iterable[str]) -> str:
    """Return a hint for a name that is not among ``known``: those like it, or else all."""
    every = sorted(known)
    near = difflib.get_close_matches(name, every, 3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {first_few(every, 20)}" if every else "there are none"


class UniqueNames:
    """Assigns unique names of a limited length.

    A name that fits stays as it is. One that is too long or already taken ends in a hash of the whole name,
    so that it is the same in each build.
    """

    def __init__(self, limit: int = INTERFACE_NAME_LIMIT) -> None:
        self._limit = limit
        self._taken: set[str] = set()

    def name(self, wanted: str) -> str:
        """Return ``wanted``, or a name derived from it if it is too long or taken."""
        for candidate in _candidates(wanted, self._limit):
            if candidate not in self._taken:
                self._taken.add(candidate)
                return candidate
        raise AssertionError  # the candidates do not end


def is_derived(name: str, wanted: str, limit: int = INTERFACE_NAME_LIMIT) -> bool:
    """Return whether ``UniqueNames`` could have returned ``name`` for ``wanted``."""
    return name in islice(_candidates(wanted, limit), _ATTEMPTS)


def _candidates(wanted: str, limit: int) -> Iterator[str]:
    if len(wanted) <= limit:
        yield wanted
    for attempt in count():
        suffix = f"-{stable_number(wanted, attempt) % 16**6:06x}"
        yield wanted[: limit - len(suffix)].rstrip("-") + suffix
