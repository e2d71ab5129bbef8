"""Placement strategies: one module each, found by its file name and listed nowhere.

A module offers ``place(testbed)``: a pure function from the logical testbed to a host for each segment and
guest, with reasons. It raises ComplaintsError when it cannot place the testbed, and does not read a guest's
``definition``, which belongs to the guest's kind. The result of every strategy is checked against the
capacity of the hosts and the constraints of the YAML.

Where a network's segments are on all hosts (``Topology.everywhere``), a strategy gets a testbed in which each
guest has a segment of its own, and needs no code for it.

A strategy does not know the current placement, so the same input always gives the same result.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol, cast

import msgspec

from kvmcompose.core.document import Path
from kvmcompose.core.errors import Complaint, ComplaintsError, RefusedError
from kvmcompose.core.model import LogicalTestbed, Placement
from kvmcompose.placement._capacity_check import check, used_by
from kvmcompose.placement._constraints import PLACEMENT, Names, check_constraints, names_in
from kvmcompose.placement._everywhere import guests_only, one_by_one
from kvmcompose.placement._follow import guests_follow, segments_of
from kvmcompose.placement._groups import GUEST, has_emulation, inseparable

__all__ = [
    "PLACEMENT",
    "Names",
    "check_constraints",
    "guests_follow",
    "inseparable",
    "names_in",
    "one_by_one",
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
        """Return a host for each segment and guest, with reasons."""


@cache
def strategies() -> tuple[str, ...]:
    """Return the names of all strategies, plug-ins included."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def strategy(name: str) -> Strategy:
    """Return the module of a strategy; ``name`` is one of ``strategies()``."""
    return cast(Strategy, importlib.import_module(f"{__name__}.{name}"))


def place(testbed: LogicalTestbed, name: str) -> Placement:
    """Place a testbed with the strategy ``name``, and check the result.

    Raises ComplaintsError when the strategy finds no placement, or one that exceeds a capacity or violates a
    constraint; RefusedError when it needs a package that is not installed.
    """
    view = one_by_one(testbed) if testbed.topology.everywhere else testbed
    placement = _placed(view, name)
    if complaints := list(check(view, placement, name)):
        hint = what_would_work(view, name)
        raise ComplaintsError(msgspec.structs.replace(each, hint=hint) for each in complaints)
    return placement if view is testbed else guests_only(testbed, placement)


def _placed(testbed: LogicalTestbed, name: str) -> Placement:
    """Place a testbed so that no guest is emulated on a host of another architecture, if that is possible."""
    if has_emulation(testbed):
        try:
            native = _at_main(msgspec.structs.replace(testbed, avoids_emulation=True), name)
        except ComplaintsError:
            return _at_main(testbed, name)
        if not any(check(testbed, native, name)):
            return native
    return _at_main(testbed, name)


def _at_main(testbed: LogicalTestbed, name: str) -> Placement:
    """Place a testbed so that its external bridge is where the NAT network is: on the main host.

    Strategies need not know this. One that chooses another host is asked again with the bridge pinned, so
    that a placement that was right already is the same as ever.
    """
    placement = strategy(name).place(testbed)
    external, main = testbed.topology.external, testbed.main_host.name
    if external is None or placement.segments[external] == main:
        return placement
    names = Names(testbed.guests, testbed.topology)
    (group,) = (set(each) for each in inseparable(testbed) if external in each)
    for pinned, host in testbed.constraints.pin.items():
        if host != main and not group.isdisjoint(names.reach(pinned)):
            raise ComplaintsError([_away(testbed, (*PLACEMENT, "pin", pinned), f"the pin of {pinned!r}")])
    pin = testbed.constraints.pin | {external: main}
    constraints = msgspec.structs.replace(testbed.constraints, pin=pin)
    placement = strategy(name).place(msgspec.structs.replace(testbed, constraints=constraints))
    if placement.segments[external] != main:
        raise ComplaintsError([_away(testbed, ("network", "external_bridge"), name)])
    return placement


def _away(testbed: LogicalTestbed, path: Path, what: str) -> Complaint:
    return Complaint(
        code="placement-conflict",
        path=path,
        message=f"{what} puts the external bridge {testbed.topology.external!r} on another host than the NAT "
        f"network, which is on the main host, {testbed.main_host.name!r}",
        wanted="the external bridge on the main host",
    )


def what_would_work(testbed: LogicalTestbed, but: str) -> str:
    """Return a hint with the strategies, except ``but``, that can place a testbed. All of them are tried."""
    working = []
    for name in strategies():
        if name == but:
            continue
        try:
            placement = _placed(testbed, name)
        except (ComplaintsError, RefusedError):  # it cannot, or lacks a package
            continue
        if not any(check(testbed, placement, name)):
            working.append(name)
    if not working:
        fewer = ", or the guest fewer bridges" if testbed.topology.noun != GUEST else ""
        return f"no strategy can place this testbed: give the hosts more capacity{fewer}"
    return f"set testbed_options.load_balancing to {' or '.join(working)}, which can place this testbed"
