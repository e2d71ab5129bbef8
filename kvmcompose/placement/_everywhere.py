"""Place guests one by one, where their segments are on all hosts.

The strategies place segments, and guests follow them. So they get a testbed in which each guest is a segment
of its own, and each logical switch one without guests, linked to those on it: a switch is where most of its
guests are, and a link between hosts is an interface whose traffic crosses them.
"""

from __future__ import annotations

import msgspec

from kvmcompose.core.model import (
    Attachment,
    Guest,
    Link,
    LogicalTestbed,
    Placement,
    Segment,
    Topology,
)
from kvmcompose.placement._follow import segments_of
from kvmcompose.placement._groups import GUEST


def _switch(name: str) -> str:
    return f"switch {name}"  # no guest has such a name


def one_by_one(testbed: LogicalTestbed) -> LogicalTestbed:
    """Return the testbed as the strategies see it."""
    on = {guest.name: segments_of(guest) for guest in testbed.guests}
    members: dict[str, list[str]] = {}
    for name, switches in on.items():
        for switch in switches:
            members.setdefault(switch, []).append(name)
    used = [each.name for each in testbed.topology.segments if each.name in members]
    placed = [name for name, switches in on.items() if switches]
    topology = Topology(
        segments=tuple(Segment(name) for name in (*placed, *map(_switch, used))),
        links=tuple(Link(name, _switch(switch)) for name in placed for switch in on[name]),
        external=None,
        noun=GUEST,
        # a switch without guests has only itself
        stands_for={each.name: tuple(members.get(each.name, ())) for each in testbed.topology.segments},
    )
    guests = tuple(map(_alone, testbed.guests))
    return msgspec.structs.replace(testbed, topology=topology, guests=guests)


def _alone(guest: Guest) -> Guest:
    return (
        msgspec.structs.replace(guest, attachments=(Attachment(guest.name),)) if guest.attachments else guest
    )


def guests_only(testbed: LogicalTestbed, placement: Placement) -> Placement:
    """Return the placement of guests, from that of ``one_by_one``."""
    reasons = {guest.name: placement.reasons[guest.name] for guest in testbed.guests}
    return Placement({}, placement.guests, reasons)
