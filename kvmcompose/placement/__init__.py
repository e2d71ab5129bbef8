"""Placement strategies: one module each, found by its file name and listed nowhere.

A module offers ``place(testbed)``: a pure function from the logical testbed and its hosts to an
assignment with reasons. It raises ComplaintsError for what it cannot place. A module with
``WEIGHS_GUESTS = False`` does not look at guests' ``cpus`` and ``memory_mb``; and none looks at their
``definition``, which is their kind's own business.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol, cast

from kvmcompose.core.model import Guest, LogicalTestbed, Placement


class Strategy(Protocol):
    """What a module in this package offers."""

    def place(self, testbed: LogicalTestbed) -> Placement:
        """Where everything goes."""


@cache
def strategies() -> tuple[str, ...]:
    """The names of all strategies there are."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def strategy(name: str) -> Strategy:
    """The module of a strategy; ``name`` is one of ``strategies()``."""
    return cast(Strategy, importlib.import_module(f"{__name__}.{name}"))


def weighs_guests(name: str) -> bool:
    """Whether a strategy may place guests elsewhere when one of them needs more."""
    return bool(getattr(strategy(name), "WEIGHS_GUESTS", True))


def segments_of(guest: Guest) -> tuple[str, ...]:
    """The segments a guest is on, each once, in order."""
    return tuple(dict.fromkeys(attachment.segment for attachment in guest.attachments))


def guests_follow(testbed: LogicalTestbed, segments: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Hosts and reasons of guests that lie where their segments lie.

    Golden images have no segment: they are set up on the main host, before their clones are spread.
    """
    hosts: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for guest in testbed.guests:
        on = segments_of(guest)
        if on:
            hosts[guest.name] = segments[on[0]]
            reasons[guest.name] = f"is on {', '.join(on)}"
        else:
            hosts[guest.name] = testbed.main_host.name
            reasons[guest.name] = "golden images are set up on the main host"
    return hosts, reasons
