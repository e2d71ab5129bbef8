"""Place groups on hosts one by one, with backtracking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kvmcompose.core.errors import Complaint, ComplaintsError
from kvmcompose.core.model import Host, LogicalTestbed
from kvmcompose.placement._constraints import PLACEMENT
from kvmcompose.placement._groups import Group, Task, fits

#: The number of steps per group after which the search gives up. It counts steps, not seconds, so that the
#: result is the same on every machine.
_PATIENCE = 50
#: More than any host has.
PLENTY = 1 << 40


class Load:
    """A partial placement, and the load of each host. Hosts are numbered as in the task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.at: dict[int, int] = {}
        self.cpus = [0] * len(task.hosts)
        self.memory_mb = [0] * len(task.hosts)

    def put(self, group: Group, host: int) -> None:
        """Add a group to a host."""
        self.at[group.number] = host
        self.cpus[host] += group.cpus
        self.memory_mb[host] += group.memory_mb

    def take(self, group: Group) -> None:
        """Remove a group from its host."""
        host = self.at.pop(group.number)
        self.cpus[host] -= group.cpus
        self.memory_mb[host] -= group.memory_mb

    def allows(self, group: Group, number: int) -> bool:
        """Return whether a group may be added to the groups already on a host."""
        host = self.task.hosts[number]
        return (
            group.may_be_on(host.name)
            and fits(host, self.cpus[number] + group.cpus, self.memory_mb[number] + group.memory_mb)
            and all(self.at.get(other) != number for other in group.apart)
        )

    def room(self) -> str:
        """Return the remaining capacity of each host, for messages."""
        return "; ".join(
            f"{host.name}: {_left(host.cpus, cpus)} CPUs, {_left(host.memory_mb, memory)} MiB left"
            for host, cpus, memory in zip(self.task.hosts, self.cpus, self.memory_mb, strict=True)
        )


Rank = Callable[[Group, Load], Iterable[int]]
"""A function that returns the hosts for a group, the best one first."""


def search(task: Task, order: Sequence[Group], rank: Rank) -> dict[int, int]:
    """Return a host for each group. Groups choose in this order, each the best host that leaves hosts for the
    others.

    Raises ComplaintsError when no placement is found.
    """
    unplaceable = [group for group in order if not any(task.permits(group, host) for host in task.hosts)]
    if unplaceable:
        raise ComplaintsError(_no_host(task, group) for group in unplaceable)
    load = Load(task)
    stuck: Complaint | None = None
    ways: list[Iterator[int]] = []  # for each group that has a host: the alternatives
    steps = _PATIENCE * len(order) + 1000
    while len(load.at) < len(order):
        group = order[len(load.at)]
        if len(ways) == len(load.at):
            ways.append(iter([host for host in rank(group, load) if load.allows(group, host)]))
        host = next(ways[-1], None)
        steps -= 1
        if host is not None:
            load.put(group, host)
            continue
        stuck = stuck or _stuck(load, group)
        ways.pop()
        if not ways or steps < 0:
            raise ComplaintsError([stuck])
        load.take(order[len(ways) - 1])
    return load.at


def packed_tightly(task: Task) -> dict[int, int]:
    """Place everything when capacity is scarce: largest groups first, each on the host with most room.

    The scarcer of CPUs and memory counts, for a host as for a group. Raises ComplaintsError.
    """
    room = [(min(host.cpus or PLENTY, PLENTY), min(host.memory_mb or PLENTY, PLENTY)) for host in task.hosts]
    cpus, memory = (sum(each) for each in zip(*room, strict=True))

    def rank(group: Group, load: Load) -> list[int]:
        def filled(host: int) -> int:
            return max(
                (load.cpus[host] + group.cpus) * PLENTY // room[host][0],
                (load.memory_mb[host] + group.memory_mb) * PLENTY // room[host][1],
            )

        return sorted(range(len(task.hosts)), key=filled)

    by_size = sorted(
        task.groups, key=lambda each: -max(each.cpus * PLENTY // cpus, each.memory_mb * PLENTY // memory)
    )
    return search(task, constrained_first(by_size), rank)


def constrained_first(groups: Iterable[Group]) -> list[Group]:
    """Return the groups with the most constraints first; all others stay in order."""
    return sorted(groups, key=lambda group: (group.pinned is None, -len(group.apart)))


def host_names(testbed: LogicalTestbed, task: Task, at: dict[int, int]) -> dict[str, str]:
    """Return the names of the hosts of all segments, in file order."""
    hosts = {name: task.hosts[at[group.number]].name for group in task.groups for name in group.segments}
    return {segment.name: hosts[segment.name] for segment in testbed.topology.segments}


def constraint_note(group: Group, host: Host) -> str:
    """Return what a reason adds for a group that has constraints or several bridges."""
    pinned = f"; pinned to {host.name}" if group.pinned else ""
    others = f"; together: {', '.join(group.segments)}" if len(group.segments) > 1 else ""
    apart = "; kept apart by a constraint" if group.apart else ""
    return pinned + others + apart


def _left(capacity: int | None, used: int) -> str:
    return "unlimited" if capacity is None else str(capacity - used)


def _no_host(task: Task, group: Group) -> Complaint:
    hosts = [host for host in task.hosts if group.may_be_on(host.name)]
    where = f"the host {group.pinned!r}, which it is pinned to, has no" if group.pinned else "no host has"
    return Complaint(
        code="no-room",
        path=("network",),
        message=f"{where} room for {task.occupants(group)}",
        wanted=f"{group.needs} of memory on one host",
        found="; ".join(
            f"{host.name}: {_left(host.cpus, 0)} CPUs, {_left(host.memory_mb, 0)} MiB" for host in hosts
        ),
    )


def _stuck(load: Load, group: Group) -> Complaint:
    """Return the problem of the first attempt: a group for which no host was left."""
    free = [
        number
        for number, host in enumerate(load.task.hosts)
        if fits(host, load.cpus[number] + group.cpus, load.memory_mb[number] + group.memory_mb)
    ]
    constrained = bool(free)
    total = f"all guests need {sum(each.cpus for each in load.task.groups)} CPUs and "
    total += f"{sum(each.memory_mb for each in load.task.groups)} MiB"
    apart = sorted({name for other in group.apart for name in load.task.groups[other].segments})
    because = f", pinned to {group.pinned}" if group.pinned else ""
    because += f", apart from {', '.join(apart)}" if apart else ""
    return Complaint(
        code="no-room",
        path=PLACEMENT if constrained or because else ("network",),
        message=f"no host has room for {load.task.occupants(group)}{because}; {total}",
        wanted=f"{group.needs} of memory on one host",
        found=load.room(),
    )
