"""Bridges are dealt to the hosts in turn, both in file order; a guest follows its bridge."""

from __future__ import annotations

from kvmcompose.core.errors import Complaint, ComplaintsError
from kvmcompose.core.model import Guest, LogicalTestbed, Placement
from kvmcompose.placement import guests_follow, segments_of, strategies, strategy

WEIGHS_GUESTS = False


def place(testbed: LogicalTestbed) -> Placement:
    """Deal, then check that no guest is torn between hosts."""
    hosts = [host.name for host in testbed.hosts]
    segments: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for index, segment in enumerate(testbed.topology.segments):
        segments[segment.name] = hosts[index % len(hosts)]
        reasons[segment.name] = f"bridge {index + 1}, dealt to host {index % len(hosts) + 1} of {len(hosts)}"
    torn = [guest for guest in testbed.guests if len({segments[name] for name in segments_of(guest)}) > 1]
    if torn:
        hint = _what_would_work(testbed)
        raise ComplaintsError(_complaint(guest, segments, hint) for guest in torn)
    guests, guest_reasons = guests_follow(testbed, segments)
    return Placement(segments, guests, reasons | guest_reasons)


def _complaint(guest: Guest, segments: dict[str, str], hint: str) -> Complaint:
    where = ", ".join(f"{name} on {segments[name]}" for name in segments_of(guest))
    return Complaint(
        code="torn-guest",
        path=("machines", guest.machine.index),
        message=f"{guest.name!r} is on bridges of different hosts: {where}",
        wanted="all bridges of a guest on one host",
        hint=hint,
    )


def _what_would_work(testbed: LogicalTestbed) -> str:
    """The strategies that do place this testbed, found by trying."""
    working = []
    for name in strategies():
        if name == __name__.rpartition(".")[2]:
            continue
        try:
            strategy(name).place(testbed)
        except ComplaintsError:
            continue
        working.append(name)
    if not working:
        return "no strategy can place this testbed: give the hosts more room, or the guest fewer bridges"
    return f"set testbed_options.load_balancing to {' or '.join(working)}, which keeps such bridges together"
