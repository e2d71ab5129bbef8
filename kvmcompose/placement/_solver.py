"""The exact part of ``min_tunnels``: HiGHS, a solver of mixed-integer programs.

It searches for a better placement than the known one, on some of the hosts. Its search is limited by the
nodes of its tree, never by time, so that the result is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.placement._groups import Group, Task

#: The limit of nodes when the whole testbed is placed at once.
_NODES = 2000


class Better(msgspec.Struct, frozen=True):
    """The result of the solver: ``at`` is a better placement, or None; ``proven``: there is no better one."""

    at: dict[int, int] | None
    proven: bool


def highs() -> Any:
    """The module of the solver. Raises RefusedError when it is not installed."""
    try:
        import highspy  # noqa: PLC0415 (an optional dependency, for min_tunnels only)
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
    """Search for a placement of ``groups`` on ``hosts`` with fewer links between hosts than now.

    All other groups stay ``at`` their hosts. ``least`` is a lower bound of the links between hosts. If a
    group has no host in ``at`` yet (it must be one of ``groups``), any placement is better.
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
    """The columns and rows of the mixed-integer program, by number."""

    def __init__(self, solver: Any, highspy: Any) -> None:
        self._solver = solver
        self._infinity = highspy.kHighsInf
        self._integer = highspy.HighsVarType.kInteger
        self._columns = 0

    def choice(self) -> int:
        """Add a column that is 0 or 1."""
        column = self.cost(0)
        self._solver.changeColIntegrality(column, self._integer)
        return column

    def cost(self, cost: int) -> int:
        """Add a column between 0 and 1, which the solver minimises with this weight."""
        self._solver.addCol(cost, 0, 1, 0, [], [])
        self._columns += 1
        return self._columns - 1

    def row(self, lower: int, upper: int | None, factors: Mapping[int, int]) -> None:
        """Add a row: a weighted sum of columns within bounds."""
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
    """Require one host for each group, by its pin, and apart from the groups that must not share it."""
    free = {group.number for group in groups}
    for group in groups:
        model.row(1, 1, {x[group.number, host]: 1 for host in hosts})
        for host in hosts:
            excluded = any(at.get(other) == host for other in group.apart - free)
            if excluded or not group.may_be_on(task.hosts[host].name):
                model.row(0, 0, {x[group.number, host]: 1})
            for other in group.apart & free:
                if other > group.number:
                    model.row(0, 1, {x[group.number, host]: 1, x[other, host]: 1})


def _links(
    model: _Model, task: Task, groups: Sequence[Group], hosts: Sequence[int], x: _Choices
) -> dict[tuple[int, int], tuple[int, int]]:
    """Return, for each pair of linked groups, the column that is 1 if they are separated, and their links."""
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
    """Limit what ``groups`` need on a host by its capacity. They include all groups that may be on it."""
    for capacity, needs in (
        (task.hosts[host].cpus, [group.cpus for group in groups]),
        (task.hosts[host].memory_mb, [group.memory_mb for group in groups]),
    ):
        if capacity is not None:
            columns = [x[group.number, host] for group in groups]
            model.row(
                0, capacity, {column: need for column, need in zip(columns, needs, strict=True) if need}
            )
