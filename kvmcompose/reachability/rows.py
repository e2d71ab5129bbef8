"""Rows of the northbound database as one transaction of OVSDB (RFC 7047, section 5.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.northbound import Row, RowRef, Value

_NORTHBOUND = "OVN_Northbound"
#: A configuration has this number; when the southbound database has it, too, northd has compiled everything.
GENERATION = 1


def insertion(rows: Sequence[Row]) -> list[Any]:
    """Return the transaction that inserts the rows into an empty database: the parameters of ``transact``.

    The result of operation ``n + 1`` is that of ``rows[n]``.
    """
    names = {row.ref: f"row{number}" for number, row in enumerate(rows)}
    held: dict[RowRef, dict[str, list[RowRef]]] = {}
    for row in rows:
        if row.parent is not None:
            held.setdefault(row.parent, {}).setdefault(row.parent_column, []).append(row.ref)
    first: dict[str, Any] = {"op": "insert", "table": "NB_Global", "row": {"nb_cfg": GENERATION}}
    return [_NORTHBOUND, first, *(_insert(row, names, held.get(row.ref, {})) for row in rows)]


def compiled(seconds: float) -> list[Any]:
    """Return the transaction that waits until northd has compiled the rows."""
    wait = {
        "op": "wait",
        "table": "NB_Global",
        "where": [],
        "columns": ["sb_cfg"],
        "until": "==",
        "rows": [{"sb_cfg": GENERATION}],
        "timeout": int(seconds * 1000),
    }
    return [_NORTHBOUND, wait]


def is_compiled(results: Sequence[Any]) -> bool:
    """Return whether northd had compiled the rows in time. Raises KvmComposeError for any other answer."""
    (result,) = results
    if "error" not in result:
        return True
    if result["error"] == "timed out":
        return False
    raise KvmComposeError(f"ovn-northd did not compile the network: {result['error']}")


def selection(database: str, table: str, columns: Sequence[str]) -> list[Any]:
    """Return the transaction that reads columns of all rows of a table."""
    return [database, {"op": "select", "table": table, "where": [], "columns": list(columns)}]


def _insert(row: Row, names: Mapping[RowRef, str], held: Mapping[str, Iterable[RowRef]]) -> dict[str, Any]:
    columns = {name: _encoded(value, names) for name, value in row.columns.items()}
    for column, refs in held.items():
        own = columns.get(column)
        more = [_ref(ref, names) for ref in refs]
        columns[column] = ["set", [*(own[1] if own and own[0] == "set" else [own] if own else []), *more]]
    return {"op": "insert", "table": row.ref.table, "uuid-name": names[row.ref], "row": columns}


def _encoded(value: Value, names: Mapping[RowRef, str]) -> Any:
    if isinstance(value, RowRef):
        return _ref(value, names)
    if isinstance(value, tuple):
        return ["set", [_ref(each, names) if isinstance(each, RowRef) else each for each in value]]
    if isinstance(value, Mapping):
        return ["map", [[key, each] for key, each in value.items()]]
    return value


def _ref(ref: RowRef, names: Mapping[RowRef, str]) -> list[str]:
    return ["named-uuid", names[ref]]
