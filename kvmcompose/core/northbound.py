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


class RowRef(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identifies a row. ``name`` is unique within table and project, even where the table has no names."""

    table: str
    name: str

    def uuid(self, project: str) -> uuid.UUID:
        """Return the row's ``_uuid``, always the same: rows of one transaction can refer to each other."""
        return uuid.uuid5(_NAMESPACE, f"{project}/{self.table}/{self.name}")

    def __str__(self) -> str:
        """Return the reference for a message."""
        return f"{self.table} {self.name}"


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
