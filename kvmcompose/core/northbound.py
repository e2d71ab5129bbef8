"""Rows of OVN's northbound database, as data. Tables and columns are those of ovn-nb(5).

A network dialect describes its network as rows. The same rows are brought into force on hosts and loaded into
a throw-away database that answers what can reach what.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

import msgspec

#: RFC 4122, section 4.3: identities of rows derive from the project and the row's own name.
_NAMESPACE = uuid.UUID("c2b9c9b6-6f1c-5f0e-9d0a-6b766d636f6d")

#: What rows are called, by table.
NOUNS = {
    "ACL": "rule",
    "DHCP_Options": "DHCP options",
    "DNS": "names",
    "Gateway_Chassis": "gateway chassis",
    "Logical_Router": "router",
    "Logical_Router_Port": "router port",
    "Logical_Router_Static_Route": "route",
    "Logical_Switch": "switch",
    "Logical_Switch_Port": "port",
}


class RowRef(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identifies a row. ``name`` is unique within table and project, even where the table has no names."""

    table: str
    name: str

    def uuid(self, project: str) -> uuid.UUID:
        """Return the row's ``_uuid``, always the same: rows of one transaction can refer to each other."""
        return uuid.uuid5(_NAMESPACE, f"{project}/{self.table}/{self.name}")

    def __str__(self) -> str:
        """Return the reference for a message, in the words of the YAML."""
        noun = NOUNS.get(self.table, self.table)
        return self.name if self.name.startswith(f"{noun} ") else f"{noun} {self.name}"


#: A tuple is a set, a mapping a map of texts.
Value = str | int | bool | RowRef | tuple[str, ...] | tuple[int, ...] | tuple[RowRef, ...] | Mapping[str, str]


class Row(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A wanted row.

    ``columns`` are those that do not have their default value, without the mark of the project in
    ``external_ids``. A row that another one holds names it as ``parent``, and its ``parent_column``; the
    columns of the parent do not repeat that, so that one row more changes no other.
    """

    ref: RowRef
    columns: Mapping[str, Value]
    parent: RowRef | None = None
    parent_column: str = ""


def normal(columns: Mapping[str, Value]) -> dict[str, Value]:
    """Return columns in one form: sets sorted, a set of one as its element, no default values.

    OVSDB does not distinguish the first two (RFC 7047, section 5.1), nor a column that was set to its default
    value (section 5.2.1) from one that was not set: the priority of a rule may be 0.
    """
    found = {name: _normal(value) for name, value in columns.items()}
    return {name: found[name] for name in sorted(found) if found[name] not in ((), {}, "", 0)}


def _normal(value: Value) -> Value:
    if isinstance(value, Mapping):
        return {key: value[key] for key in sorted(value)}
    if isinstance(value, tuple):
        unique: dict[str | int | RowRef, None] = dict.fromkeys(value)
        ordered = tuple(sorted(unique, key=str))
        return ordered[0] if len(ordered) == 1 else ordered  # type: ignore[return-value] # of one type each
    return value
