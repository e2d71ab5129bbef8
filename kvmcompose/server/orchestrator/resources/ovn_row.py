"""Rows of OVN's northbound database: switches, routers, ports, rules.

All changes are one transaction, removals included: a rule that is replaced leaves no gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from kvmcompose.core.deployment import Level
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.names import first_few
from kvmcompose.core.northbound import Row, RowRef, Value, normal
from kvmcompose.core.ovn_hosts import Outside
from kvmcompose.core.provider_network import outside_addresses
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.ovn.interface import LateError, RowChange, RowOwner
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.resources import _in_use
from kvmcompose.server.orchestrator.resources._ovn import CHANGE, databases, is_main
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded

KINDS = ("ovn-row",)
AFTER = ("ovn-outside",)
STAGE = "network"
BATCH = True
AT_ONCE = True
#: How long hosts may take to carry out a change, in seconds, and how many rows more take a second more.
_SECONDS, _ROWS = 30.0, 200
#: The column of each table that has the name of a chassis, which the YAML calls by its host.
_CHASSIS = {"Gateway_Chassis": "chassis_name"}
_SEGMENTS = ("Logical_Switch", "Logical_Router")


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's rows. Raises DriverError for those of another main host."""
    if view.ovn is None or not is_main(view, host):
        return ()
    found = await view.ovn.northbound.observe(await _mark(view))
    if found.foreign:
        others = first_few(sorted(found.foreign))
        raise DriverError(
            f"OVN has a project {view.context.project} of another main host: {others}",
            hint="give this project another name: --project-name",
        )
    hosts: dict[str, str] = {}
    for each in view.hosts.values():
        with suppress(KvmComposeError):  # one that does not answer is said elsewhere
            hosts[(await view.chassis(each)).name] = each.name
    names = view.chassis_names(hosts)
    rows = (_with_chassis(row, names) for row in found.rows.values())
    return [Found(ref=Ref(KINDS[0], str(row.ref), host.name), spec=row) for row in rows]


async def _mark(view: View) -> RowOwner:
    return RowOwner(view.context.project, await view.context.read_home())


def _with_chassis(row: Row, names: Mapping[str, str]) -> Row:
    """Return a row with other names of chassis."""
    column = _CHASSIS.get(row.ref.table, "")
    there = row.columns.get(column)
    if not isinstance(there, str) or there not in names:
        return row
    return msgspec.structs.replace(row, columns={**row.columns, column: names[there]})


def compare(wanted: Resource, found: Found) -> Change | None:
    """Every column changes in use, and so does the row that holds it."""
    spec: Row = wanted.spec
    before, after = normal(found.spec.columns), normal(spec.columns)
    reasons = [
        Reason(ReasonCode.CHANGED, column, _text(before.get(column)), _text(after.get(column)))
        for column in sorted({*before, *after})
        if before.get(column) != after.get(column)
    ]
    if (found.spec.parent, found.spec.parent_column) != (spec.parent, spec.parent_column):
        parents = [None if each is None else str(each) for each in (found.spec.parent, spec.parent)]
        reasons.append(Reason(ReasonCode.CHANGED, "part of", *parents))
    return _in_use.change(wanted, found, reasons)


def _text(value: Value | None) -> str | None:
    """Return a value of a column for a message."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, tuple):
        return first_few([str(each) for each in value])
    return str(value).lower() if isinstance(value, bool) else str(value)


def segment_of(project: str, change: Change) -> str | None:
    """Return the name of a switch or router; other rows are of one of them, or of none."""
    row = next(each.spec for each in (change.wanted, change.found) if each is not None)
    return row.ref.name.removeprefix(f"{project}-") if row.ref.table in _SEGMENTS else None


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return addresses that another project has in a provider network, by the bridge that both use."""
    if not any(change.wanted is not None for change in changes):
        return ()
    rows = [each.spec for each in work.testbed.network_plan.resources if isinstance(each.spec, Row)]
    outsides = [
        (each.ref.host, each.spec)
        for each in work.testbed.network_plan.resources
        if isinstance(each.spec, Outside)
    ]

    async def check(host: HostDrivers) -> None:
        for spec in (each for name, each in outsides if name == host.name):
            others = {**await host.outsides.users(spec.bridge)}
            others.pop(work.context.project, None)
            if others:
                theirs = await databases(work.view).northbound.rows_of(sorted(others))
                for project, network in others.items():
                    _check_addresses(spec, rows, project, outside_addresses(theirs[project], network))

    return await work.on_hosts(check)


def _check_addresses(spec: Outside, rows: Sequence[Row], project: str, taken: Mapping[str, RowRef]) -> None:
    """Raise DriverError for addresses that another project has, on the same bridge."""
    mine = outside_addresses(rows, spec.network)
    both = sorted(mine.keys() & taken.keys())
    if both:
        raise DriverError(
            f"the project {project} has addresses of this testbed on the bridge {spec.bridge}: "
            f"{first_few([f'{each} ({mine[each]})' for each in both])}",
            hint=f"give them others in the network {spec.network}",
        )


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Carry out all changes, and wait until the hosts have."""
    with work.step(STAGE, "ovn", host=host.name) as step:
        await _change(work, changes, step)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove rows. What hosts have not carried out is a warning: one may be off, or be gone for good."""
    with work.step(STAGE, "ovn", host=host.name) as step:
        try:
            await _change(work, changes, step)
        except LateError as error:
            step.say(error.message, Level.WARNING)


async def _change(work: Work, changes: Sequence[Change], step: RunningStep) -> None:
    northbound = databases(work.view).northbound
    chassis = await _chassis(work)
    names = {each: name for name, each in work.view.chassis_names(chassis).items()}
    change = RowChange(
        mark=await _mark(work.view),
        put=tuple(_with_chassis(each.wanted.spec, names) for each in changes if each.wanted is not None),
        removed=tuple(
            each.found.spec.ref for each in changes if each.wanted is None and each.found is not None
        ),
    )
    number = await shielded(northbound.change(change))
    kind, name = CHANGE
    work.view.put_mark(kind, name, str(number))
    step.say(f"changed: {first_few([each.ref.name for each in changes], 20)}")
    await northbound.in_force(number, chassis, _SECONDS + len(changes) / _ROWS)


async def _chassis(work: Work) -> dict[str, str]:
    """Return the hosts that are chassis for the project now, by the names that they have in OVN."""
    found: dict[str, str] = {}
    for name, host in work.view.hosts.items():
        try:
            settings = await host.chassis.observe()  # not as it was before this action
        except KvmComposeError:
            continue  # it does not answer, which is said elsewhere
        if settings.name and work.context.project in settings.users:
            found[settings.name] = name
    return found
