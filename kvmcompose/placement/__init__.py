"""Placement strategies: one module each, found by its file name and listed nowhere.

A module offers ``place(testbed)``: a pure function from the logical testbed and its hosts to an
assignment with reasons. It raises ComplaintsError for what it cannot place, and does not read a guest's
``definition``, which belongs to the guest's kind. The capacity of the hosts and the constraints of the YAML
are checked afterwards, for every strategy.

No strategy knows where guests are now: the same input gives the same bytes.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol, cast

import msgspec

from kvmcompose.core.errors import ComplaintsError, RefusedError
from kvmcompose.core.model import LogicalTestbed, Placement
from kvmcompose.placement._capacity_check import check, used_by
from kvmcompose.placement._constraints import check_constraints
from kvmcompose.placement._follow import guests_follow, segments_of

__all__ = [
    "check_constraints",
    "guests_follow",
    "place",
    "segments_of",
    "strategies",
    "strategy",
    "used_by",
    "what_would_work",
]


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


def place(testbed: LogicalTestbed, name: str) -> Placement:
    """Where a strategy puts everything.

    Raises ComplaintsError when it cannot, or when that is not what was asked for; RefusedError when it
    needs a package that is not installed.
    """
    placement = strategy(name).place(testbed)
    if complaints := list(check(testbed, placement, name)):
        hint = what_would_work(testbed, name)
        raise ComplaintsError(msgspec.structs.replace(each, hint=hint) for each in complaints)
    return placement


def what_would_work(testbed: LogicalTestbed, but: str) -> str:
    """A hint with the strategies that do place a testbed, found by trying all others."""
    working = []
    for name in strategies():
        if name == but:
            continue
        try:
            placement = strategy(name).place(testbed)
        except (ComplaintsError, RefusedError):  # it cannot, or lacks a package
            continue
        if not any(check(testbed, placement, name)):
            working.append(name)
    if not working:
        return "no strategy can place this testbed: give the hosts more capacity, or the guest fewer bridges"
    return f"set testbed_options.load_balancing to {' or '.join(working)}, which can place this testbed"
