"""Group the bridges that must be on the same host: because they share a guest, or by constraint."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import pairwise

import msgspec

from kvmcompose.core.errors import Complaint, ComplaintsError
from kvmcompose.core.model import Host, LogicalTestbed
from kvmcompose.placement._constraints import PLACEMENT, Names, place_of
from kvmcompose.placement._follow import segments_of, sharers

#: The word for a segment where each guest is placed for itself.
GUEST = "guest"


class Group(msgspec.Struct, frozen=True):
    """Segments that must be on the same host, and what their guests need (memory in MiB).

    ``apart`` are the numbers of the groups that must not be on that host. ``native`` are the hosts of the
    architecture of most of its guests, None where any host will do.
    """

    number: int
    segments: tuple[str, ...]
    cpus: int
    memory_mb: int
    pinned: str | None
    apart: frozenset[int]
    native: frozenset[str] | None = None

    def may_be_on(self, host: str) -> bool:
        """Return whether its pin, or the architecture of its guests, permits a host. The pin wins."""
        return self.pinned == host if self.pinned is not None else self.native is None or host in self.native

    @property
    def needs(self) -> str:
        """CPUs and memory, for messages."""
        return f"{self.cpus} CPUs and {self.memory_mb} MiB"


class Task(msgspec.Struct, frozen=True):
    """The problem that a strategy solves: groups, and hosts, the main host first.

    ``links`` is, for each group, the number of links to other groups, by their numbers. ``noun`` is the word
    for a segment.
    """

    groups: tuple[Group, ...]
    links: tuple[dict[int, int], ...]
    hosts: tuple[Host, ...]
    noun: str = "bridge"

    def occupants(self, group: Group) -> str:
        """Return the guests of a group, for messages."""
        names = ", ".join(group.segments)
        return names if self.noun == GUEST else f"the guests on {names}"

    def permits(self, group: Group, host: Host) -> bool:
        """Return whether an empty host has room for a group, and the group's pin permits the host."""
        return group.may_be_on(host.name) and fits(host, group.cpus, group.memory_mb)


def fits(host: Host, cpus: int, memory_mb: int) -> bool:
    """Return whether a host has this capacity (memory in MiB). Without one in the config it is unlimited."""
    # guests could share CPUs, though not memory; but a capacity in the config limits both
    return (host.cpus is None or cpus <= host.cpus) and (
        host.memory_mb is None or memory_mb <= host.memory_mb
    )


class _Bonds:
    """Which segments must be on the same host, and why."""

    def __init__(self, testbed: LogicalTestbed, names: Names) -> None:
        self._why: dict[str, dict[str, str]] = {name.name: {} for name in testbed.topology.segments}
        for guest in testbed.guests:
            on = segments_of(guest)
            for one, other in pairwise(on):
                self._bind(one, other, f"{one} and {other} share the guest {guest.name!r}")
        for number, together in enumerate(testbed.constraints.together):
            segments = list(dict.fromkeys(each for name in together for each in names.reach(name)))
            for one, other in pairwise(segments):
                self._bind(one, other, f"{place_of('together', number)} binds {one} and {other}")
        for disk, sharing in sharers(testbed).items():
            for first, second in pairwise(sharing):
                why = f"{first.name!r} and {second.name!r} share the disk {disk!r}"
                self._bind(segments_of(first)[0], segments_of(second)[0], why)
        self.group_of: dict[str, int] = {}
        self.members: list[list[str]] = []
        position = {name: number for number, name in enumerate(self._why)}
        for start in self._why:
            if start not in self.group_of:
                found = sorted(self._from(start), key=lambda name: position[name])
                self.group_of.update(dict.fromkeys(found, len(self.members)))
                self.members.append(found)

    def _bind(self, one: str, other: str, why: str) -> None:
        if one != other:
            self._why[one].setdefault(other, why)
            self._why[other].setdefault(one, why)

    def _from(self, start: str) -> dict[str, str | None]:
        """Return all segments bound to one, each with its predecessor on a shortest path."""
        before: dict[str, str | None] = {start: None}
        queue = deque([start])
        while queue:
            here = queue.popleft()
            for there in self._why[here]:
                if there not in before:
                    before[there] = here
                    queue.append(there)
        return before

    def why(self, start: str, end: str) -> str:
        """Return the reasons along a shortest path from one segment to another of its group."""
        before = self._from(start)
        bonds = []
        here = end
        while (previous := before[here]) is not None:
            bonds.append(self._why[previous][here])
            here = previous
        return "; ".join(reversed(bonds)) or f"both are on the bridge {start}"


def inseparable(testbed: LogicalTestbed) -> list[list[str]]:
    """Return the segments in groups that must be on one host, because of guests or of ``together``."""
    return _Bonds(testbed, Names(testbed.guests, testbed.topology)).members


def task_of(testbed: LogicalTestbed) -> Task:
    """Return the groups, links and hosts of a testbed. Raises ComplaintsError if constraints conflict."""
    names = Names(testbed.guests, testbed.topology)
    bonds = _Bonds(testbed, names)
    conflicts = [*_two_pins(testbed, names, bonds), *_apart_conflicts(testbed, names, bonds)]
    if conflicts:
        raise ComplaintsError(conflicts)
    group_of = bonds.group_of
    cpus, memory = [0] * len(bonds.members), [0] * len(bonds.members)
    for guest in testbed.guests:
        if on := segments_of(guest):
            cpus[group_of[on[0]]] += guest.cpus
            memory[group_of[on[0]]] += guest.memory_mb
    pinned = {
        group_of[each]: host for name, host in testbed.constraints.pin.items() for each in names.reach(name)
    }
    apart: list[set[int]] = [set() for _ in bonds.members]
    for one, other, _ in _pairs_apart(testbed, names):
        apart[group_of[one]].add(group_of[other])
        apart[group_of[other]].add(group_of[one])
    links: list[dict[int, int]] = [{} for _ in bonds.members]
    for link in testbed.topology.links:
        source, target = group_of[link.source], group_of[link.target]
        if source != target:
            links[source][target] = links[source].get(target, 0) + 1
            links[target][source] = links[target].get(source, 0) + 1
    native = _native(testbed, group_of)
    groups = tuple(
        Group(
            number,
            tuple(members),
            cpus[number],
            memory[number],
            pinned.get(number),
            frozenset(apart[number]),
            native.get(number),
        )
        for number, members in enumerate(bonds.members)
    )
    order = (testbed.main_host, *(host for host in testbed.hosts if not host.is_main_host))
    return Task(groups, tuple(links), order, testbed.topology.noun)


def has_emulation(testbed: LogicalTestbed) -> bool:
    """Return whether hosts have different architectures: the placement decides who is emulated."""
    return len({host.arch for host in testbed.hosts}) > 1


def _native(testbed: LogicalTestbed, group_of: Mapping[str, int]) -> dict[int, frozenset[str]]:
    """Return the hosts of the architecture that most guests of a group have, for groups that prefer some."""
    if not testbed.avoids_emulation or not has_emulation(testbed):
        return {}
    counts: dict[int, Counter[str]] = {}
    archs = {host.arch for host in testbed.hosts}
    for guest in testbed.guests:
        if guest.arch in archs and guest.arch is not None and (on := segments_of(guest)):
            counts.setdefault(group_of[on[0]], Counter())[guest.arch] += 1
    best = {
        number: {arch for arch, count in each.items() if count == max(each.values())}
        for number, each in counts.items()
    }
    return {
        number: frozenset(host.name for host in testbed.hosts if host.arch in wanted)
        for number, wanted in best.items()
        if wanted != archs
    }


def _pairs_apart(testbed: LogicalTestbed, names: Names) -> Iterator[tuple[str, str, tuple[int, str, str]]]:
    """Yield pairs of segments that must not share a host, with the list and the names that require it."""
    for number, apart in enumerate(testbed.constraints.apart):
        for index, name in enumerate(apart):
            for before in apart[:index]:
                for one in names.reach(before):
                    for other in names.reach(name):
                        yield one, other, (number, before, name)


def _two_pins(testbed: LogicalTestbed, names: Names, bonds: _Bonds) -> Iterator[Complaint]:
    first: dict[int, tuple[str, str, str]] = {}  # of each group: the name that pins it, a segment, the host
    for name, host in testbed.constraints.pin.items():
        for segment in names.reach(name):
            group = bonds.group_of[segment]
            other, at, where = first.setdefault(group, (name, segment, host))
            if where != host:
                yield Complaint(
                    code="placement-conflict",
                    path=(*PLACEMENT, "pin", name),
                    message=f"{name!r} is pinned to {host!r} and {other!r} to {where!r}, but they cannot be "
                    f"separated: {bonds.why(at, segment)}",
                    wanted="the same host for both",
                )
                break


def _apart_conflicts(testbed: LogicalTestbed, names: Names, bonds: _Bonds) -> Iterator[Complaint]:
    pins = {
        bonds.group_of[each]: (name, host)
        for name, host in testbed.constraints.pin.items()
        for each in names.reach(name)
    }
    said: set[tuple[int, str, str]] = set()
    for one, other, which in _pairs_apart(testbed, names):
        groups = bonds.group_of[one], bonds.group_of[other]
        pinned = [pins[each] for each in groups if each in pins]
        why = None
        if groups[0] == groups[1]:
            why = f"they cannot be separated: {bonds.why(one, other)}"
        elif len(pinned) == len(groups) and pinned[0][1] == pinned[1][1]:
            why = f"{pinned[0][0]!r} and {pinned[1][0]!r} are pinned to {pinned[0][1]!r}"
        if why and which not in said:
            said.add(which)
            number, before, name = which
            yield Complaint(
                code="placement-conflict",
                path=(*PLACEMENT, "apart", number),
                message=f"{before!r} and {name!r} must be kept apart, but {why}",
            )
    for number, apart in enumerate(testbed.constraints.apart):
        if len(apart) > len(testbed.hosts):
            yield Complaint(
                code="placement-conflict",
                path=(*PLACEMENT, "apart", number),
                message=f"{len(apart)} must be kept apart, but there are {len(testbed.hosts)} hosts",
                wanted="a host for each",
            )
