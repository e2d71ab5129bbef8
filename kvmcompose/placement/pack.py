"""As few hosts as possible: the main host first, the next one when it is full.

Bridges that share a guest stay together. The groups are taken largest first, each by the first host
with room for it (first fit decreasing), so the number of hosts is near the least possible but not
proven to be it. A host without ``cpus`` and ``memory_mb`` in the config has room for everything.
"""

from __future__ import annotations

import msgspec

from kvmcompose.core.errors import Complaint, ComplaintsError
from kvmcompose.core.model import Host, LogicalTestbed, Placement
from kvmcompose.placement import guests_follow, segments_of


class _Group(msgspec.Struct):
    """Segments that must lie on one host, and what their guests need (memory in MiB)."""

    segments: list[str]
    cpus: int = 0
    memory_mb: int = 0


def place(testbed: LogicalTestbed) -> Placement:
    """First fit decreasing over groups of bridges that share a guest."""
    order = [testbed.main_host, *(host for host in testbed.hosts if not host.is_main_host)]
    used = {host.name: _Group([]) for host in order}
    segments: dict[str, str] = {}
    reasons: dict[str, str] = {}
    homeless = []
    # by size, largest first; equal ones stay in file order
    for group in sorted(_groups(testbed), key=lambda each: (-each.memory_mb, -each.cpus)):
        host = next((host for host in order if _fits(host, used[host.name], group)), None)
        if host is None:
            homeless.append(group)
            continue
        used[host.name].cpus += group.cpus
        used[host.name].memory_mb += group.memory_mb
        for name in group.segments:
            segments[name] = host.name
            reasons[name] = f"first host with room for {group.cpus} CPUs and {group.memory_mb} MiB"
    if homeless:
        raise ComplaintsError(_complaint(testbed, group, used) for group in homeless)
    guests, guest_reasons = guests_follow(testbed, segments)
    return Placement(segments, guests, reasons | guest_reasons)


def _groups(testbed: LogicalTestbed) -> list[_Group]:
    group_of = {segment.name: _Group([segment.name]) for segment in testbed.topology.segments}
    for guest in testbed.guests:
        on = segments_of(guest)
        if not on:
            continue
        first = group_of[on[0]]
        for name in on[1:]:
            other = group_of[name]
            if other is not first:
                first.segments += other.segments
                first.cpus += other.cpus
                first.memory_mb += other.memory_mb
                for member in other.segments:
                    group_of[member] = first
        first.cpus += guest.cpus
        first.memory_mb += guest.memory_mb
    return list({id(group): group for group in group_of.values()}.values())


def _fits(host: Host, used: _Group, group: _Group) -> bool:
    # vCPUs may be shared by guests, memory may not; a capacity in the config is a wish for both
    cpus = host.cpus is None or used.cpus + group.cpus <= host.cpus
    return cpus and (host.memory_mb is None or used.memory_mb + group.memory_mb <= host.memory_mb)


def _complaint(testbed: LogicalTestbed, group: _Group, used: dict[str, _Group]) -> Complaint:
    room = "; ".join(
        f"{host.name}: {_left(host.cpus, used[host.name].cpus)} CPUs, "
        f"{_left(host.memory_mb, used[host.name].memory_mb)} MiB left"
        for host in testbed.hosts
    )
    return Complaint(
        code="no-room",
        path=("network",),
        message=f"no host has room for the guests on {', '.join(group.segments)}",
        wanted=f"{group.cpus} CPUs and {group.memory_mb} MiB of memory on one host",
        found=room,
    )


def _left(capacity: int | None, used: int) -> str:
    return "unlimited" if capacity is None else str(capacity - used)
