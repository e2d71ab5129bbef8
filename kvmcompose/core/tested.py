"""What ``kvm-compose test --json`` prints; ``kvm-compose schema --of test`` prints the schema."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmcompose.core.errors import Location
from kvmcompose.core.probe import ProbeOutcome


class Verdict(StrEnum):
    """How a line of ``expect`` fared.

    ``UNKNOWN``: no traffic breaks it, but some could not be tested. ``SKIPPED``: all of it is from
    ``internet``, which no packet can be sent from.
    """

    HOLDS = "holds"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


class TestedTraffic(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """Packets from a guest to another, or to ``internet``: what became of them, and why.

    ``protocol`` is ``icmp``, ``tcp PORT`` or ``udp PORT``.
    """

    __test__ = False  # for pytest

    source: str
    target: str
    protocol: str
    outcome: ProbeOutcome
    cause: str


class TestedExpectation(msgspec.Struct, frozen=True, rename={"wanted": "is"}):
    """A line of ``expect``: how it fared, and the traffic that breaks it or could not be tested.

    ``path`` is its place in the data. ``pairs`` is the number of pairs that it is about, ``skipped`` that of
    those from ``internet``. ``checked`` is whether it holds by ``kvm-compose check``, null if that could not
    tell.
    """

    __test__ = False  # for pytest

    text: str
    wanted: str
    path: str
    at: Location
    verdict: Verdict
    pairs: int
    skipped: int
    broken: tuple[TestedTraffic, ...]
    unknown: tuple[TestedTraffic, ...]
    checked: bool | None


class TestDocument(msgspec.Struct, frozen=True):
    """All lines of ``expect``. ``holds``: none is broken or unknown."""

    __test__ = False  # for pytest

    project: str
    holds: bool
    expectations: tuple[TestedExpectation, ...]
