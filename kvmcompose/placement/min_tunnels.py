"""Create as few tunnels as the capacity of the hosts allows: one for each connection between hosts.

First a walk along the connections, small branches first, puts each group on the host with most of its
neighbours. If the walk cuts no more connections than the capacities require, its result is used.
Otherwise the solver HiGHS looks for a better one: for everything at once in a small testbed, so that no
placement has fewer tunnels, and for two hosts at a time in a large one. Its result is used only if it is
better, so that another version of HiGHS hardly ever moves a guest.

A logical switch has no host. There, each guest is linked to its switches, so that as few guests as possible
are away from the host with most of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from kvmcompose.core.errors import ComplaintsError
from kvmcompose.core.model import LogicalTestbed, Placement
from kvmcompose.placement._follow import guests_follow
from kvmcompose.placement._groups import GUEST, Group, Task, task_of
from kvmcompose.placement._search import (
    PLENTY,
    Load,
    constrained_first,
    constraint_note,
    host_names,
    packed_tightly,
    search,
)
from kvmcompose.placement._solver import better, highs

#: A testbed with at most this many choices (groups times hosts) is placed at once.
_SMALL = 240
#: A larger one is improved for two hosts at a time, until this many groups have been considered in total.
_PATIENCE = 1500
_FEW_NODES = 20


def place(testbed: LogicalTestbed) -> Placement:
    """Walk along the connections, then let the solver improve. Raises RefusedError if it is not installed."""
    highs()
    task = task_of(testbed)
    at, proven = _least(task)
    segments = host_names(testbed, task, at)
    guests, reasons = guests_follow(testbed, segments)
    cut = _cut(task, at)
    guests_alone = task.noun == GUEST
    total = f"{cut} tunnels in all, " + (
        "and no placement has fewer" if proven else "the fewest that were found"
    )
    for group in task.groups:
        here = sum(
            count for other, count in task.links[group.number].items() if at[other] == at[group.number]
        )
        there = sum(task.links[group.number].values()) - here
        host = task.hosts[at[group.number]]
        why = (
            f"{here} of {here + there} interfaces on a switch with most guests on {host.name} "
            f"({cut} interfaces of guests elsewhere in all)"
            if guests_alone
            else f"{here} connections within {host.name}, {there} tunnels ({total})"
        ) + constraint_note(group, host)
        reasons |= dict.fromkeys(group.segments, why)
    return Placement(segments, guests, reasons)


def _least(task: Task) -> tuple[dict[int, int], bool]:
    """Return a placement, and whether it is proven that none has fewer tunnels. Raises ComplaintsError."""
    bound = _bound(task)
    everywhere = range(len(task.hosts))
    small = len(task.groups) * len(task.hosts) <= _SMALL
    try:
        # of two with equally many tunnels, the one with fewer hosts
        at, other = sorted((_walked(task), _walked(task, far=True)), key=lambda each: _cut(task, each))
    except ComplaintsError:
        start = better(task, task.groups, everywhere, {}, bound).at if small else None
        if start is None:
            raise
        at = other = start
    if _cut(task, at) <= bound:
        return at, True
    if small:
        answer = better(task, task.groups, everywhere, at, bound)
        return answer.at or at, answer.proven
    ways = (_two_by_two(task, at, bound), _two_by_two(task, other, bound))
    return min(ways, key=lambda way: _cut(task, way[0]))


def _two_by_two(task: Task, at: dict[int, int], bound: int) -> tuple[dict[int, int], bool]:
    """Redistribute the groups of two hosts between them, for the pairs with the most tunnels first."""
    done: set[tuple[int, int, frozenset[int]]] = set()
    left = _PATIENCE
    while True:
        before = _cut(task, at)
        for one, other in _joined(task, at):
            groups = [group for group in task.groups if at[group.number] in (one, other)]
            now = (one, other, frozenset(group.number for group in groups if at[group.number] == one))
            if now in done:
                continue
            done.add(now)
            left -= len(groups)
            if left < 0:
                return at, False
            answer = better(task, groups, (one, other), at, 0, nodes=_FEW_NODES)
            at = at | (answer.at or {})
            if _cut(task, at) <= bound:
                return at, True
        if _cut(task, at) == before:
            return at, False


def _joined(task: Task, at: dict[int, int]) -> list[tuple[int, int]]:
    tunnels: Counter[tuple[int, int]] = Counter()
    for number, others in enumerate(task.links):
        for other, count in others.items():
            if at[number] < at[other]:
                tunnels[at[number], at[other]] += count
    return sorted(tunnels, key=lambda pair: (-tunnels[pair], pair))


def _walked(task: Task, *, far: bool = False) -> dict[int, int]:
    """Place groups along the connections, or, if that fails, where there is room.

    A group that cannot join any of its neighbours goes to the first host with room; with ``far``, to the host
    with the most room. The first way uses fewer hosts, the second leaves more room for later groups.
    """

    def rank(group: Group, load: Load) -> list[int]:
        near = [0] * len(task.hosts)
        cut = False
        for other, count in task.links[group.number].items():
            if other in load.at:
                near[load.at[other]] += count
                cut = True

        def left(number: int) -> tuple[int, int]:
            host = task.hosts[number]
            return (
                (host.memory_mb or PLENTY) - load.memory_mb[number],
                (host.cpus or PLENTY) - load.cpus[number],
            )

        def order(host: int) -> tuple[int, tuple[int, int]]:
            return near[host], left(host) if cut and far else (0, 0)

        return sorted(range(len(near)), key=order, reverse=True)

    try:
        return search(task, constrained_first(_along(task)), rank)
    except ComplaintsError:
        return packed_tightly(task)


def _along(task: Task) -> Iterator[Group]:
    """Yield the groups depth first from one end of each connected part, small branches before large ones."""
    ends = sorted(task.groups, key=lambda group: len(task.links[group.number]))
    size = _branches(task, ends)
    seen: set[int] = set()
    for start in ends:
        stack = [start.number]
        while stack:
            here = stack.pop()
            if here not in seen:
                seen.add(here)
                yield task.groups[here]
                stack += sorted(task.links[here], key=lambda each: (-size[each], -each))


def _branches(task: Task, ends: Sequence[Group]) -> list[int]:
    """Return the memory (MiB) of each group and of all groups behind it, as seen from the ends."""
    behind: list[tuple[int, int | None]] = []
    seen: set[int] = set()
    for start in ends:
        stack: list[tuple[int, int | None]] = [(start.number, None)]
        while stack:
            here, before = stack.pop()
            if here not in seen:
                seen.add(here)
                behind.append((here, before))
                stack += [(each, here) for each in task.links[here]]
    size = [group.memory_mb for group in task.groups]
    for here, before in reversed(behind):
        if before is not None:
            size[before] += size[here]
    return size


def _cut(task: Task, at: dict[int, int]) -> int:
    """Return the number of links between hosts."""
    return sum(
        count
        for number, others in enumerate(task.links)
        for other, count in others.items()
        if number < other and at[number] != at[other]
    )


def _bound(task: Task) -> int:
    """Return a lower bound of the links between hosts: the hosts needed, less the connected parts."""
    seen: set[int] = set()
    parts = 0
    for group in task.groups:
        if group.number not in seen:
            parts += 1
            stack = [group.number]
            while stack:
                here = stack.pop()
                if here not in seen:
                    seen.add(here)
                    stack += task.links[here]
    needed = max(
        len({group.pinned for group in task.groups if group.pinned}),
        _hosts_for(sum(group.cpus for group in task.groups), [host.cpus for host in task.hosts]),
        _hosts_for(sum(group.memory_mb for group in task.groups), [host.memory_mb for host in task.hosts]),
    )
    return max(0, needed - parts)


def _hosts_for(need: int, capacities: Sequence[int | None]) -> int:
    """Return the lowest number of hosts whose capacity is sufficient."""
    if None in capacities:
        return 1
    room = 0
    for count, capacity in enumerate(sorted((each or 0 for each in capacities), reverse=True), 1):
        room += capacity
        if room >= need:
            return count
    return len(capacities)
