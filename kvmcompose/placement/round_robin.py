"""Assign bridges to the hosts in turn, both in file order. A guest is on the host of its bridges. Guests on
logical switches are assigned in turn themselves.

Pinned bridges, and those that must be on the same host, go to the pinned host, and bridges whose guests
would be emulated to hosts of their architecture, in turn; those of guests that share a disk go to the host of
the first of them; the others go where they would go without that.
All other constraints and the capacity of hosts are ignored: a result that violates them is rejected.
"""

from __future__ import annotations

from kvmcompose.core.errors import Complaint, ComplaintsError
from kvmcompose.core.model import Guest, LogicalTestbed, Placement
from kvmcompose.placement import what_would_work
from kvmcompose.placement._follow import guests_follow, segments_of, sharers
from kvmcompose.placement._groups import has_emulation, task_of


def place(testbed: LogicalTestbed) -> Placement:
    """Assign in turn, then check that no guest is on bridges of different hosts."""
    hosts = [host.name for host in testbed.hosts]
    segments: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for index, segment in enumerate(testbed.topology.segments):
        segments[segment.name] = hosts[index % len(hosts)]
        reasons[segment.name] = (
            f"{testbed.topology.noun} {index + 1}, assigned to host {index % len(hosts) + 1} of {len(hosts)}"
        )
    sharing = {segments_of(guest)[0] for each in sharers(testbed).values() for guest in each}
    for group in (
        task_of(testbed).groups if testbed.constraints.pin or has_emulation(testbed) or sharing else ()
    ):
        if group.pinned:
            segments |= dict.fromkeys(group.segments, group.pinned)
            reasons |= dict.fromkeys(group.segments, f"pinned to {group.pinned}")
        elif group.native is not None and not {segments[each] for each in group.segments} <= group.native:
            native = [host for host in hosts if host in group.native]
            segments |= dict.fromkeys(group.segments, native[group.number % len(native)])
            reasons |= dict.fromkeys(group.segments, "assigned to a host of the architecture of its guests")
        if not sharing.isdisjoint(group.segments) and len({segments[each] for each in group.segments}) > 1:
            first, *others = group.segments
            segments |= dict.fromkeys(others, segments[first])
            reasons |= dict.fromkeys(others, f"with {first}, as guests on them share a disk")
    torn = [guest for guest in testbed.guests if len({segments[name] for name in segments_of(guest)}) > 1]
    if torn:
        hint = what_would_work(testbed, "round_robin")
        raise ComplaintsError(_complaint(guest, segments, hint) for guest in torn)
    guests, guest_reasons = guests_follow(testbed, segments)
    return Placement(segments, guests, guest_reasons | reasons)


def _complaint(guest: Guest, segments: dict[str, str], hint: str) -> Complaint:
    where = ", ".join(f"{name} on {segments[name]}" for name in segments_of(guest))
    return Complaint(
        code="torn-guest",
        path=("machines", guest.machine.index),
        message=f"{guest.name!r} is on bridges of different hosts: {where}",
        wanted="all bridges of a guest on one host",
        hint=hint,
    )
