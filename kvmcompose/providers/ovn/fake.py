"""OVN's databases on a simulated main host."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kvmcompose.core.northbound import Row, RowRef, Value, normal
from kvmcompose.core.ovn_hosts import Identity
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeRow
from kvmcompose.providers.ovn.interface import FoundCentral, FoundRows, RowChange, RowOwner
from kvmcompose.providers.ovn.keys import ends_soon
from kvmcompose.providers.ovn.rows import another_owner, late

_ROW = "row"
_END = "2999-12-31"


class FakeNorthbound:
    """See ``Northbound``. ``chassis`` finds those of all simulated hosts."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    def is_there(self) -> bool:
        return True

    async def check(self) -> None:
        await self._host.call("check_northbound")

    async def observe(self, mark: RowOwner) -> FoundRows:
        await self._host.call("observe_rows", mark.project)
        rows = self._host.world.ovn.rows.get(mark.project, {}).values()
        mine = (_row(each) for each in rows if each.owner == mark.owner)
        foreign = frozenset(each.owner for each in rows if each.owner != mark.owner)
        return FoundRows({row.ref: row for row in mine}, foreign)

    async def rows_of(self, projects: Collection[str]) -> Mapping[str, Sequence[Row]]:
        await self._host.call("rows_of", ",".join(sorted(projects)))
        rows = self._host.world.ovn.rows
        return {each: [_row(row) for row in rows.get(each, {}).values()] for each in projects}

    async def change(self, change: RowChange) -> int:
        await self._host.call("change_rows", change.mark.project)
        ovn, project = self._host.world.ovn, change.mark.project
        before = ovn.rows.get(project, {})
        rows = dict(before)
        for ref in change.removed:
            rows.pop(_key(ref), None)
        for row in change.put:
            there = rows.get(_key(row.ref))
            if there is not None and there.owner != change.mark.owner:
                raise another_owner(row.ref, project, there.owner)
            rows[_key(row.ref)] = _fake(row, change.mark.owner)
        for row in change.put:
            if row.parent is not None and _key(row.parent) not in rows:
                raise DriverError(f"{row.ref} needs {row.parent}, which is not there")
        while lost := [key for key, row in rows.items() if row.parent and "/".join(row.parent) not in rows]:
            for key in lost:  # rows end with the one that holds them
                del rows[key]
        if rows != before:
            ovn.rows[project] = rows
            if not rows:
                del ovn.rows[project]
            ovn.changes += 1
            self._host.keep(("ovn",))
        return ovn.changes

    async def in_force(self, number: int, chassis: Mapping[str, str], seconds: float) -> None:
        await self._host.call("in_force", str(number))
        silent = [host for host in chassis.values() if not self._host.beside(host).ovn.chassis.runs]
        for host in set(chassis.values()) - {*silent}:
            self._host.beside(host).ovn.chassis.carried_out = number
        if silent:
            raise late((), silent, seconds)

    async def bound(self, ports: Collection[str]) -> set[str]:
        await self._host.call("bound_ports")
        there = {
            port.interface_id
            for world in self._host.everywhere
            for bridge in world.bridges.get("", {}).values()
            for port in bridge.ports.values()
            if world.ovn.chassis.runs and port.interface_id is not None
        }
        return there & {*ports}

    async def lagging(self, number: int, chassis: Collection[str]) -> Collection[str]:
        await self._host.call("lagging_chassis", str(number))
        worlds = {name: self._host.beside(name).ovn for name in chassis}
        return [name for name, each in worlds.items() if each.chassis.carried_out < number]

    async def close(self) -> None:
        """There is no connection."""


class FakeSouthbound:
    """See ``Southbound``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def observe(self) -> FoundCentral:
        await self._host.call("observe_southbound")
        ovn = self._host.world.ovn
        addresses = (ovn.address,) if ovn.address else ()
        return FoundCentral(
            addresses=addresses,
            users=frozenset(ovn.users),
            has_keys=bool(ovn.users),
            expires=ovn.expires,
        )

    async def open(self, project: str, address: str) -> None:
        await self._host.call("open_southbound", address)
        ovn = self._host.world.ovn
        ovn.address, ovn.users = address, sorted({*ovn.users, project})
        if not ovn.expires or ends_soon(ovn.expires):
            ovn.expires = _END
        self._host.keep(("ovn",))

    async def forget(self, chassis: Collection[str]) -> None:
        await self._host.call("forget_chassis", ",".join(sorted(chassis)))

    async def identity(self, chassis: str) -> Identity:
        await self._host.call("make_identity", chassis)
        return Identity(key="", certificate=chassis, ca="", expires=self._host.world.ovn.expires)

    async def close(self, project: str) -> None:
        await self._host.call("close_southbound", project)
        ovn = self._host.world.ovn
        ovn.users = [each for each in ovn.users if each != project]
        ovn.address, ovn.expires = (ovn.address, ovn.expires) if ovn.users else ("", "")
        self._host.keep(("ovn",))


def _key(ref: RowRef) -> str:
    return f"{ref.table}/{ref.name}"


def _fake(row: Row, owner: str) -> FakeRow:
    columns = {name: _to_json(value) for name, value in normal(row.columns).items()}
    parent = [row.parent.table, row.parent.name] if row.parent is not None else None
    return FakeRow(owner, row.ref.table, row.ref.name, columns, parent, row.parent_column)


def _row(row: FakeRow) -> Row:
    columns = {name: _from_json(value) for name, value in row.columns.items()}
    parent = RowRef(*row.parent) if row.parent is not None else None
    ref = RowRef(row.table, row.name)
    return Row(ref=ref, columns=columns, parent=parent, parent_column=row.parent_column)


def _to_json(value: Value) -> Any:
    if isinstance(value, RowRef):
        return {_ROW: [value.table, value.name]}
    return [_to_json(each) for each in value] if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get(_ROW), list):
        return RowRef(*value[_ROW])
    return tuple(_from_json(each) for each in value) if isinstance(value, list) else value
