"""Check a placement against the capacity of the hosts and the user's constraints."""

from __future__ import annotations

from collections.abc import Iterator

from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Constraints, LogicalTestbed, Placement
from kvmcompose.placement._constraints import PLACEMENT, Names
from kvmcompose.placement._follow import segments_of, sharers
from kvmcompose.placement._groups import fits

_LOAD_BALANCING = ("testbed_options", "load_balancing")


def used_by(testbed: LogicalTestbed, placement: Placement) -> dict[str, tuple[int, int, int]]:
    """Return, for each host in file order, the number of its guests, their CPUs and their memory in MiB.

    Golden images are not counted: they are off while the testbed is up.
    """
    used = {host.name: (0, 0, 0) for host in testbed.hosts}
    for guest in testbed.guests:
        if segments_of(guest):
            host = placement.guests[guest.name]
            count, cpus, memory = used[host]
            used[host] = (count + 1, cpus + guest.cpus, memory + guest.memory_mb)
    return used


def check(testbed: LogicalTestbed, placement: Placement, strategy: str) -> Iterator[Complaint]:
    """Yield hosts whose capacity is exceeded, and constraints that are not met."""
    if any(host.cpus is not None or host.memory_mb is not None for host in testbed.hosts):
        yield from _overfull(testbed, placement, strategy)
    if testbed.constraints != Constraints():
        yield from _unfulfilled(testbed, placement, strategy)
    for disk, sharing in sharers(testbed).items():
        where = {guest.name: placement.guests[guest.name] for guest in sharing}
        if len(set(where.values())) > 1:
            yield Complaint(
                code="placement-conflict",
                path=_LOAD_BALANCING,
                message=f"{strategy} separates guests that share the disk {disk!r}: {_listed(where)}",
            )


def _overfull(testbed: LogicalTestbed, placement: Placement, strategy: str) -> Iterator[Complaint]:
    used = used_by(testbed, placement)
    for host in testbed.hosts:
        _, cpus, memory = used[host.name]
        if not fits(host, cpus, memory):
            room = f"{_capacity(host.cpus)} CPUs and {_capacity(host.memory_mb)} MiB"
            others = "; ".join(
                f"{other.name}: {used[other.name][1]} of {_capacity(other.cpus)} CPUs, "
                f"{used[other.name][2]} of {_capacity(other.memory_mb)} MiB"
                for other in testbed.hosts
                if other is not host
            )
            yield Complaint(
                code="no-room",
                path=_LOAD_BALANCING,
                message=f"{strategy} exceeds the capacity of host {host.name!r}",
                found=f"{cpus} CPUs and {memory} MiB of guests" + (f"; {others}" if others else ""),
                wanted=f"at most {room}",
            )


def _capacity(capacity: int | None) -> str:
    return "unlimited" if capacity is None else str(capacity)


def _unfulfilled(testbed: LogicalTestbed, placement: Placement, strategy: str) -> Iterator[Complaint]:
    names = Names(testbed.guests, testbed.topology)
    at = placement.segments
    for name, host in testbed.constraints.pin.items():
        wrong = [each for each in names.reach(name) if at[each] != host]
        if wrong:
            yield _unmet(("pin", name), f"{strategy} puts {wrong[0]} on {at[wrong[0]]}, not on {host}")
    for number, together in enumerate(testbed.constraints.together):
        where = {each: at[each] for name in together for each in names.reach(name)}
        if len(set(where.values())) > 1:
            yield _unmet(("together", number), f"{strategy} separates them: {_listed(where)}")
    for number, apart in enumerate(testbed.constraints.apart):
        hosts: dict[str, str] = {}
        for name in apart:
            for segment in names.reach(name):
                other = hosts.setdefault(at[segment], name)
                if other != name:
                    message = f"{strategy} puts {other!r} and {name!r} on one host, {at[segment]}"
                    yield _unmet(("apart", number), message)


def _listed(where: dict[str, str]) -> str:
    return ", ".join(f"{segment} on {host}" for segment, host in where.items())


def _unmet(path: tuple[str | int, ...], message: str) -> Complaint:
    return Complaint(
        code="placement-conflict",
        path=(*PLACEMENT, *path),
        message=message,
    )
