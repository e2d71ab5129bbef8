"""Give every host its share of CPUs and memory, as evenly as is possible with a stable placement.

The weight of a group of bridges is half its CPUs and half its memory, that of a host its capacity; a
host without a capacity has the mean of the others. Large groups go first. A digest of both names ranks
the hosts for each group. The group goes to its highest-ranked host that stays within an eighth of its
share; if there is none, to the host with the least load. A new guest thus raises every share a little
and moves few others (rendezvous hashing with bounded loads).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kvmcompose.core.errors import ComplaintsError
from kvmcompose.core.model import Host, LogicalTestbed, Placement
from kvmcompose.placement._follow import guests_follow
from kvmcompose.placement._groups import Group, Task, task_of
from kvmcompose.placement._search import (
    Load,
    constrained_first,
    constraint_note,
    host_names,
    packed_tightly,
    search,
)

#: The weight of all guests together. Integers give the same result on every machine.
_WHOLE = 1 << 40


def place(testbed: LogicalTestbed) -> Placement:
    """Place groups by rendezvous hashing with bounded loads, largest groups first."""
    task = task_of(testbed)
    scale = _Scale(task)
    preferred = {group.number: _by_preference(group, task.hosts) for group in task.groups}

    def rank(group: Group, load: Load) -> list[int]:
        after = [
            scale.weight(load.cpus[number] + group.cpus, load.memory_mb[number] + group.memory_mb)
            for number in range(len(task.hosts))
        ]
        shares = scale.shares
        within = [number for number in preferred[group.number] if 8 * after[number] <= 9 * shares[number]]
        beyond = [number for number in preferred[group.number] if 8 * after[number] > 9 * shares[number]]
        return within + sorted(beyond, key=lambda number: after[number] * _WHOLE // shares[number])

    order = sorted(task.groups, key=lambda group: (-_size(group), _digest(group.segments[0])))
    try:
        at = search(task, constrained_first(order), rank)
    except ComplaintsError:
        at = packed_tightly(task)
    segments = host_names(testbed, task, at)
    guests, reasons = guests_follow(testbed, segments)
    for group in task.groups:
        host = task.hosts[at[group.number]]
        share = scale.shares[at[group.number]] * 100 // _WHOLE
        why = f"{group.needs} of the {share} % of all that {host.name} is to carry"
        reasons |= dict.fromkeys(group.segments, why + constraint_note(group, host))
    return Placement(segments, guests, reasons)


class _Scale:
    """The weight of groups, and each host's share of the total weight."""

    def __init__(self, task: Task) -> None:
        self._cpus = sum(group.cpus for group in task.groups) or 1
        self._memory = sum(group.memory_mb for group in task.groups) or 1
        cpus = _filled([host.cpus for host in task.hosts])
        memory = _filled([host.memory_mb for host in task.hosts])
        self.shares = [
            max(1, _WHOLE * one // (2 * sum(cpus)) + _WHOLE * other // (2 * sum(memory)))
            for one, other in zip(cpus, memory, strict=True)
        ]

    def weight(self, cpus: int, memory_mb: int) -> int:
        """Return the weight of CPUs and memory (MiB), of which all guests together have ``_WHOLE``."""
        return _WHOLE * cpus // (2 * self._cpus) + _WHOLE * memory_mb // (2 * self._memory)


def _size(group: Group) -> int:
    """Return the rough size of a group, so that a small change does not alter the order of groups."""
    return (group.cpus * 1024 + group.memory_mb).bit_length()


def _filled(capacities: Sequence[int | None]) -> list[int]:
    known = [each for each in capacities if each is not None]
    mean = max(1, sum(known) // len(known)) if known else 1
    return [max(1, mean if each is None else each) for each in capacities]


def _by_preference(group: Group, hosts: Sequence[Host]) -> list[int]:
    return sorted(range(len(hosts)), key=lambda number: _digest(f"{group.segments[0]}\n{hosts[number].name}"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
