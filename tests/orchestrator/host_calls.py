"""Counts calls to simulated hosts: what is in place costs the same for any number of guests.

    with counted_calls(lab.drivers) as few:
        lab.must(Up())
    assert few.of("one")["observe_bridges"] == 1
    assert growth(few, many) == {}

A call that changes something is counted like one that looks. What is done inside guests, by SSH, is counted
apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvmcompose.hosts.fake import MAIN, Worlds

#: The methods of ``GuestShell``.
_INSIDE = frozenset({"disconnect", "forget", "run", "wait_ready"})


@dataclass
class HostCalls:
    """How often each method was called, by host (the main host's name is ``MAIN``), and inside guests."""

    hosts: dict[str, Counter[str]] = field(default_factory=dict)
    guests: Counter[str] = field(default_factory=Counter)

    def of(self, host: str = MAIN) -> Counter[str]:
        """The calls to one host."""
        return self.hosts.get(host, Counter())

    def add(self, call: str) -> None:
        """Count a call: ``[HOST/]METHOD[:TARGET]``."""
        host, _, method = call.partition(":")[0].rpartition("/")
        if host == MAIN and method in _INSIDE:
            self.guests[method] += 1
        else:
            self.hosts.setdefault(host, Counter())[method] += 1


@contextmanager
def counted_calls(worlds: Worlds) -> Iterator[HostCalls]:
    """Count the calls of the block."""
    begun, counts = len(worlds.calls), HostCalls()
    yield counts
    for call in worlds.calls[begun:]:
        counts.add(call)


def growth(few: HostCalls, many: HostCalls) -> Mapping[str, tuple[int, int]]:
    """Return the methods that were called more often on any host, as ``HOST/METHOD``, with both counts."""
    pairs = {
        f"{host}/{method}": (few.of(host)[method], many.of(host)[method])
        for host in few.hosts | many.hosts
        for method in few.of(host) | many.of(host)
    }
    pairs |= {
        f"(guests)/{method}": (few.guests[method], many.guests[method]) for method in few.guests | many.guests
    }
    return {name: counts for name, counts in sorted(pairs.items()) if counts[1] > counts[0]}
