"""Rows as OVSDB has them: operations of RFC 7047, section 5.2, and what a replica contains."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from kvmcompose.core.names import first_few
from kvmcompose.core.northbound import Row, RowRef, Value, normal
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovn import wire
from kvmcompose.providers.ovn.interface import (
    MARKS,
    NORTHDS,
    OWNER_KEY,
    PROJECT_KEY,
    ROW_KEY,
    FoundRows,
    LateError,
    RowChange,
    RowOwner,
)
from kvmcompose.providers.ovn.session import Operation

_IDS = "external_ids"


def found_rows(idl: Any, mark: RowOwner) -> FoundRows:
    """Return a project's rows in a replica of the northbound database."""
    replica = _Replica(idl)
    rows: dict[RowRef, Row] = {}
    foreign: set[str] = set()
    for table, row, ids in replica.marked():
        if ids.get(PROJECT_KEY) != mark.project:
            continue
        if ids.get(OWNER_KEY) != mark.owner:
            foreign.add(ids.get(OWNER_KEY, ""))
            continue
        found = replica.row(table, row, ids)
        rows[found.ref] = found
    return FoundRows(rows, frozenset(foreign))


def rows_of(idl: Any, projects: Collection[str]) -> dict[str, list[Row]]:
    """Return the rows of projects in a replica, of any owner."""
    replica = _Replica(idl)
    found: dict[str, list[Row]] = {each: [] for each in projects}
    for table, row, ids in replica.marked():
        if ids[PROJECT_KEY] in found:
            found[ids[PROJECT_KEY]].append(replica.row(table, row, ids))
    return found


def operations(idl: Any, change: RowChange) -> list[Operation]:
    """Return the operations that carry out a change, and count it; none if there is nothing to do.

    Raises DriverError for rows of another owner, and for parents that do not exist.
    """
    if not change.put and not change.removed:
        return []
    plan = _Plan(_Replica(idl), change)
    found = plan.operations()
    if found:
        found.append({"op": "mutate", "table": "NB_Global", "where": [], "mutations": [["nb_cfg", "+=", 1]]})
        found.append({"op": "comment", "comment": f"kvm-compose: {change.mark.project}"})
    return found


class _Replica:
    """A replica, read once: which tables hold rows of others, and where each row is held."""

    def __init__(self, idl: Any) -> None:
        self.tables: Mapping[str, Any] = idl.tables
        #: The columns of each table whose values are rows of no other's: these end with their parent.
        self.holding = {
            name: [
                column.name
                for column in table.columns.values()
                if (key := column.type.key).ref_table is not None
                and key.ref_type == "strong"
                and not idl.tables[key.ref_table.name].is_root
            ]
            for name, table in self.tables.items()
        }
        self.refs = {row.uuid: _ref(table, row, ids) for table, row, ids in self.marked()}
        self.parents: dict[uuid.UUID, tuple[RowRef, str]] = {}
        for name, columns in self.holding.items():
            for column in columns:
                for row in self.tables[name].rows.values():
                    for child in wire.stored(row, column) if column in wire.columns(row) else ():
                        self.parents[child.uuid] = (
                            self.refs.get(row.uuid, RowRef(name, str(row.uuid))),
                            column,
                        )

    def marked(self) -> Iterator[tuple[str, Any, Mapping[str, str]]]:
        """Yield the rows of all projects: table, row and marks."""
        for name, table in self.tables.items():
            if _IDS in table.columns:
                for row in table.rows.values():
                    ids = wire.stored(row, _IDS)
                    if PROJECT_KEY in ids:
                        yield name, row, ids

    def row(self, table: str, row: Any, ids: Mapping[str, str]) -> Row:
        """Return a marked row."""
        parent, column = self.parents.get(row.uuid, (None, ""))
        columns = self.columns(table, row)
        return Row(ref=_ref(table, row, ids), columns=columns, parent=parent, parent_column=column)

    def columns(self, table: str, row: Any) -> dict[str, Value]:
        """Return the columns that do not have their default value."""
        skipped = {*self.holding[table], *NORTHDS.get(table, ())}
        found = {
            name: self._value(wire.stored(row, name)) for name in wire.columns(row) if name not in skipped
        }
        if _IDS in found:
            ids = wire.stored(row, _IDS)
            found[_IDS] = {key: each for key, each in ids.items() if key not in MARKS}
        return normal(found)

    def _value(self, value: Any) -> Value:
        if isinstance(value, list | tuple):
            return tuple(self._atom(each) for each in value)
        return value if isinstance(value, Mapping) else self._atom(value)

    def _atom(self, value: Any) -> Any:
        if hasattr(value, "uuid"):
            return self.refs.get(value.uuid, RowRef(value._table.name, str(value.uuid)))  # noqa: SLF001
        return str(value) if isinstance(value, uuid.UUID) else value


def _ref(table: str, row: Any, ids: Mapping[str, str]) -> RowRef:
    return RowRef(table, ids.get(ROW_KEY, str(row.uuid)))


class _Plan:
    """The operations of one change."""

    def __init__(self, replica: _Replica, change: RowChange) -> None:
        self._replica = replica
        self._change = change
        self._project = change.mark.project
        self._wanted = {each.ref for each in change.put}
        self._keys = {ref: key for key, ref in replica.refs.items()}
        self._moves: dict[tuple[str, uuid.UUID], dict[tuple[str, str], list[uuid.UUID]]] = {}

    def operations(self) -> list[Operation]:
        found = [each for row in self._change.put for each in self._put(row)]
        gone = [ref for ref in self._change.removed if self._row(ref) is not None]
        removed = {ref.uuid(self._project) for ref in gone}
        for ref in gone:
            self._leave(ref.uuid(self._project), removed)
        deletions = [
            {"op": "delete", "table": ref.table, "where": _is(ref.uuid(self._project))} for ref in gone
        ]
        return [*found, *self._mutations(), *deletions]

    def _row(self, ref: RowRef) -> Any:
        """Return a row of the replica, None if there is none. Raises DriverError for another owner's."""
        table = self._replica.tables.get(ref.table)
        if table is None or _IDS not in table.columns:
            raise DriverError(f"this OVN has no table {ref.table} for rows of projects")
        row = table.rows.get(ref.uuid(self._project))
        if row is not None:
            owner = row.external_ids.get(OWNER_KEY, self._change.mark.owner)
            if owner != self._change.mark.owner:
                raise another_owner(ref, self._project, owner)
        return row

    def _put(self, row: Row) -> Iterator[Operation]:
        there = self._row(row.ref)
        identity = row.ref.uuid(self._project)
        wanted = normal(row.columns)
        self._hold(row, identity)
        marks = self._marks(row.ref)
        if there is None:
            columns = {name: self._json(value) for name, value in wanted.items()}
            columns[_IDS] = _map({**_texts(wanted.get(_IDS)), **marks})
            yield {"op": "insert", "table": row.ref.table, "uuid": str(identity), "row": columns}
            return
        known = self._replica.columns(row.ref.table, there)
        types = self._replica.tables[row.ref.table].columns
        changed: dict[str, Any] = {
            name: self._json(wanted[name]) if name in wanted else _default(types[name].type)
            for name in sorted({*wanted, *known})
            if wanted.get(name) != known.get(name) and name != _IDS
        }
        ids = {**_texts(wanted.get(_IDS)), **marks}
        if there.external_ids != ids:
            changed[_IDS] = _map(ids)
        if changed:
            yield {"op": "update", "table": row.ref.table, "where": _is(identity), "row": changed}

    def _marks(self, ref: RowRef) -> dict[str, str]:
        return {PROJECT_KEY: self._project, OWNER_KEY: self._change.mark.owner, ROW_KEY: ref.name}

    def _hold(self, row: Row, identity: uuid.UUID) -> None:
        """Let a row be held by its parent, and by no other."""
        held = self._replica.parents.get(identity)
        if held == ((row.parent, row.parent_column) if row.parent is not None else None):
            return
        if held is not None:
            self._leave(identity, set())
        if row.parent is None:
            return
        if row.parent not in self._wanted and self._row(row.parent) is None:
            raise DriverError(f"{row.ref} needs {row.parent}, which is not there")
        self._move(row.parent.table, row.parent.uuid(self._project), row.parent_column, "insert", identity)

    def _leave(self, identity: uuid.UUID, removed: set[uuid.UUID]) -> None:
        """Take a row from its parent, unless that goes as well."""
        held = self._replica.parents.get(identity)
        if held is None:
            return
        parent, column = held
        where = self._keys.get(parent) or uuid.UUID(parent.name)
        if where not in removed:
            self._move(parent.table, where, column, "delete", identity)

    def _move(self, table: str, parent: uuid.UUID, column: str, how: str, child: uuid.UUID) -> None:
        self._moves.setdefault((table, parent), {}).setdefault((column, how), []).append(child)

    def _mutations(self) -> Iterable[Operation]:
        for (table, parent), moves in self._moves.items():
            mutations = [
                [column, how, ["set", [["uuid", str(each)] for each in children]]]
                for (column, how), children in moves.items()
            ]
            yield {"op": "mutate", "table": table, "where": _is(parent), "mutations": mutations}

    def _json(self, value: Value) -> Any:
        if isinstance(value, RowRef):
            return ["uuid", str(value.uuid(self._project))]
        if isinstance(value, tuple):
            return ["set", [self._json(each) for each in value]]
        return _map(value) if isinstance(value, Mapping) else value


def _texts(value: Any) -> Mapping[str, str]:
    return value if isinstance(value, Mapping) else {}


def _map(value: Mapping[str, str]) -> list[Any]:
    return ["map", [[key, each] for key, each in sorted(value.items())]]


def _is(identity: uuid.UUID) -> list[Any]:
    return [["_uuid", "==", ["uuid", str(identity)]]]


def _default(kind: Any) -> Any:
    """Return the default value of a column (RFC 7047, section 5.2.1)."""
    if kind.is_map():
        return ["map", []]
    if kind.n_min == 0:
        return ["set", []]
    return kind.key.default().to_json() if hasattr(kind.key, "default") else ""


def another_owner(what: RowRef | str, project: str, owner: str) -> DriverError:
    """Return the error of rows of another main host's project."""
    return DriverError(
        f"{what} belongs to the project {project} of another main host: {owner}",
        hint="give this project another name: --project-name",
    )


def late(missing: Iterable[str], behind: Iterable[str], seconds: float) -> LateError:
    """Return the error of chassis that have not carried out a change; the names are those of hosts."""
    missing, behind = sorted(missing), sorted(behind)
    if missing:
        return LateError(
            f"OVN has no chassis for {first_few(missing)}: ovn-controller has not registered",
            hint=f"does it run there? sudo systemctl status ovn-controller; on this host: kvm-compose doctor "
            f"--remote {missing[0]}",
        )
    return LateError(
        f"ovn-controller on {first_few(behind)} has not carried out the change within {seconds:g} s",
        hint="the change is in OVN's database, and is carried out when it runs: "
        "sudo systemctl restart ovn-controller",
    )
