"""Use as few hosts as possible: the main host first, the next one when it is full.

Bridges that share a guest stay together. The groups are sorted by memory, by CPUs and in file order;
each goes to the first host with room for it (first fit decreasing), and the order that needs the fewest
hosts is used. Their number is therefore near the minimum, but not proven to be minimal. If none of the
three orders places all groups, a search over all hosts does. A host without ``cpus`` and ``memory_mb``
in the config has unlimited capacity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvmcompose.core.errors import ComplaintsError
from kvmcompose.core.model import LogicalTestbed, Placement
from kvmcompose.placement._follow import guests_follow
from kvmcompose.placement._groups import Group, Task, task_of
from kvmcompose.placement._search import (
    constrained_first,
    constraint_note,
    host_names,
    packed_tightly,
    search,
)


def place(testbed: LogicalTestbed) -> Placement:
    """Place groups by first fit decreasing."""
    task = task_of(testbed)
    at = min(_ways(task), key=lambda way: len(set(way.values())), default=None) or packed_tightly(task)
    segments = host_names(testbed, task, at)
    guests, reasons = guests_follow(testbed, segments)
    for group in task.groups:
        why = f"first host with room for {group.needs}{constraint_note(group, task.hosts[at[group.number]])}"
        reasons |= dict.fromkeys(group.segments, why)
    return Placement(segments, guests, reasons)


def _ways(task: Task) -> Iterator[dict[int, int]]:
    orders: tuple[Sequence[Group], ...] = (
        # equal ones stay in file order
        sorted(task.groups, key=lambda each: (-each.memory_mb, -each.cpus)),
        sorted(task.groups, key=lambda each: (-each.cpus, -each.memory_mb)),
        task.groups,
    )
    for order in orders:
        try:
            yield search(task, constrained_first(order), lambda _group, _load: range(len(task.hosts)))
        except ComplaintsError:
            continue
