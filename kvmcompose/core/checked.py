"""What ``kvm-compose check --json`` prints; ``kvm-compose schema --of check`` prints the schema."""

from __future__ import annotations

import msgspec

from kvmcompose.core.errors import Location


class CheckedTraffic(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """Traffic from a guest, or ``internet``, to another: whether it arrives and is answered, and why.

    ``protocol`` is ``icmp``, ``tcp PORT`` or ``udp PORT``. ``arrives`` without ``reaches``: only the answers
    are lost. ``at`` is the line that is the cause, null if none is.
    """

    source: str
    target: str
    protocol: str
    reaches: bool
    arrives: bool
    cause: str
    at: Location | None


class CheckedExpectation(msgspec.Struct, frozen=True, rename={"wanted": "is"}):
    """A line of ``expect``: whether it holds, and the traffic that breaks it, once for each pair of guests.

    ``path`` is its place in the data; ``pairs`` is the number of pairs that it is about.
    """

    text: str
    wanted: str
    path: str
    at: Location
    holds: bool
    pairs: int
    broken: tuple[CheckedTraffic, ...]


class CheckDocument(msgspec.Struct, frozen=True):
    """All lines of ``expect``, and with ``--matrix`` every pair of guests."""

    project: str
    holds: bool
    expectations: tuple[CheckedExpectation, ...]
    matrix: tuple[CheckedTraffic, ...] | None = None
