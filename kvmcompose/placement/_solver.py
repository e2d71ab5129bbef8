"""The exact part of ``min_tunnels``: HiGHS, a solver of mixed-integer programs.

It is asked for something better than what is known, on some hosts, and ends after so many nodes of its
tree, never after so many seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.placement._groups import Group, Task

#: So many nodes of its tree the solver looks at, when all of a testbed is decided at once.
_NODES = 2000


class Better(msgspec.Struct, frozen=True):
    """What the solver found: a better place for each group if there is any; ``proven``: that no other is."""

    at: dict[int, int] | None
    proven: bool


def highs() -> Any:
    """The module of the solver. Raises RefusedError when it is not installed."""
    try:
        import highspy  # noqa: PLC0415 (an extra: only who uses min_tunnels needs it)
    except ImportError as error:
        raise RefusedError(
            f"the placement strategy min_tunnels needs the solver HiGHS ({error})",
            hint="pip install 'kvmcompose[placement]'",
        ) from error
    return highspy


def better(
    task: Task,
    groups: Sequence[Group],
    hosts: Sequence[int],
    at: Mapping[int, int],
    least: int,
    *,
    nodes: int = _NODES,
) -> Better:
    """``groups`` on ``hosts`` with fewer links between hosts than now, all other groups staying ``at``.

    ``least`` are the links that have to be cut in any case. A group that has no place in ``at`` yet is
    among ``groups``; then any way to place them will do.
    """
    highspy = highs()
    solver = highspy.Highs()
    for option, value in {
        "output_flag": False, "threads": 1, "random_seed": 0, "mip_max_nodes": nodes,
        "mip_rel_gap": 0.0, "mip_abs_gap": 0.5,
    }.items():  # fmt: skip
        solver.setOptionValue(option, value)
    model = _Model(solver, highspy)
    x = {(group.number, host): model.choice() for group in groups for host in hosts}
    _places(model, task, groups, hosts, at, x)
    for host in hosts:
        _capacity(model, task, groups, x, host)
    cut = _links(model, task, groups, hosts, x)
    placed = all(group.number in at for group in groups)
    now = sum(count for (one, other), (_, count) in cut.items() if at.get(one) != at.get(other))
    model.row(least, now - 1 if placed else None, dict(cut.values()))
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return Better(None, proven=True)
    values = solver.getSolution().col_value
    info = solver.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return Better(None, proven=False)
    found = {number: host for (number, host), column in x.items() if round(values[column]) == 1}
    return Better(found, proven=status == highspy.HighsModelStatus.kOptimal)


class _Model:
    """Columns and rows by number."""

    def __init__(self, solver: Any, highspy: Any) -> None:
        self._solver = solver
        self._infinity = highspy.kHighsInf
        self._integer = highspy.HighsVarType.kInteger
        self._columns = 0

    def choice(self) -> int:
        """A new column that is 0 or 1."""
        column = self.cost(0)
        self._solver.changeColIntegrality(column, self._integer)
        return column

    def cost(self, cost: int) -> int:
        """A new column between 0 and 1, as small as the rows let it be."""
        self._solver.addCol(cost, 0, 1, 0, [], [])
        self._columns += 1
        return self._columns - 1

    def row(self, lower: int, upper: int | None, factors: Mapping[int, int]) -> None:
        """A sum within bounds."""
        high = self._infinity if upper is None else upper
        self._solver.addRow(lower, high, len(factors), list(factors), list(factors.values()))


_Choices = Mapping[tuple[int, int], int]
"""The column of each group on each host."""


def _places(
    model: _Model,
    task: Task,
    groups: Sequence[Group],
    hosts: Sequence[int],
    at: Mapping[int, int],
    x: _Choices,
) -> None:
    """Each group on one host, where it is pinned to, and apart from those it must not lie with."""
    free = {group.number for group in groups}
    for group in groups:
        model.row(1, 1, {x[group.number, host]: 1 for host in hosts})
        for host in hosts:
            beside = any(at.get(other) == host for other in group.apart - free)
            if beside or group.pinned not in (None, task.hosts[host].name):
                model.row(0, 0, {x[group.number, host]: 1})
            for other in group.apart & free:
                if other > group.number:
                    model.row(0, 1, {x[group.number, host]: 1, x[other, host]: 1})


def _links(
    model: _Model, task: Task, groups: Sequence[Group], hosts: Sequence[int], x: _Choices
) -> dict[tuple[int, int], tuple[int, int]]:
    """Of each two groups that are joined: the column that tells they are parted, and by how many links."""
    cut = {}
    free = {group.number for group in groups}
    for group in groups:
        for other, count in task.links[group.number].items():
            if other not in free or other < group.number:
                continue
            parted = model.cost(count)
            cut[group.number, other] = (parted, count)
            for host in hosts:
                model.row(0, None, {parted: 1, x[group.number, host]: -1, x[other, host]: 1})
                model.row(0, None, {parted: 1, x[group.number, host]: 1, x[other, host]: -1})
    return cut


def _capacity(model: _Model, task: Task, groups: Sequence[Group], x: _Choices, host: int) -> None:
    """What ``groups`` may need on a host. All groups that may lie on it are among them."""
    for capacity, needs in (
        (task.hosts[host].cpus, [group.cpus for group in groups]),
        (task.hosts[host].memory_mb, [group.memory_mb for group in groups]),
    ):
        if capacity is not None:
            columns = [x[group.number, host] for group in groups]
            model.row(
                0, capacity, {column: need for column, need in zip(columns, needs, strict=True) if need}
            )
