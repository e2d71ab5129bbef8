"""What must hold in a testbed: the lines of ``expect``.

Expectations are part of the YAML, not of ``state.json``: they change nothing that is built or runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

#: The name of everything outside the testbed.
INTERNET = "internet"
#: The keys of a line that name what is sent, in the order in which messages list them.
PROTOCOLS = ("icmp", "tcp", "udp")


class Traffic(msgspec.Struct, frozen=True, order=True):
    """What is sent: an ICMP echo request, or a packet to a TCP or UDP port."""

    protocol: str
    port: int = 0

    def __str__(self) -> str:
        """Return it as the YAML has it, without punctuation: ``tcp 5432``."""
        return f"{self.protocol} {self.port}" if self.port else self.protocol


PING = Traffic("icmp")


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``expect``.

    ``sources`` and ``targets`` are as written: names of guests or machines, patterns, or ``internet``.
    ``probe`` is None for traffic of every kind. ``index`` is the place in the list.
    """

    index: int
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    probe: Traffic | None
    is_allowed: bool

    def __str__(self) -> str:
        """Return the line in words."""
        what = f", {self.probe}" if self.probe else ""
        return f"{', '.join(self.sources)} to {', '.join(self.targets)}{what}: {self.word}"

    @property
    def word(self) -> str:
        """The word of the YAML for what must hold."""
        return "allowed" if self.is_allowed else "denied"


def parse_expectations(lines: Sequence[Mapping[str, Any]]) -> tuple[Expectation, ...]:
    """Return the lines of ``expect``, which have the right shape."""
    return tuple(_expectation(index, line) for index, line in enumerate(lines))


def _expectation(index: int, line: Mapping[str, Any]) -> Expectation:
    protocol = next((each for each in PROTOCOLS if each in line), None)
    port = line.get(protocol) if protocol in ("tcp", "udp") else 0
    return Expectation(
        index=index,
        sources=_words(line["from"]),
        targets=_words(line["to"]),
        probe=None if protocol is None else Traffic(protocol, port if isinstance(port, int) else 0),
        is_allowed=line["is"] == "allowed",
    )


def _words(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
