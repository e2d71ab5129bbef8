"""Parsed YAML and JSON in which every value knows its line and column.

Scalars keep their text: which type a plain scalar has is decided by the schema
(``52:54:00:12:34:56``, ``on``, ``010`` stay what the user wrote), never by the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from kvmcompose.core.errors import Location

Path = tuple[str | int, ...]


class Place(Protocol):
    """Where a node or key starts; line and column count from 0.

    libyaml's marks are such places, and are kept as they are: there are hundreds of thousands of them in a
    large file, and few are ever asked for.
    """

    @property
    def line(self) -> int:
        """The line."""

    @property
    def column(self) -> int:
        """The column, in characters."""


class Mark(msgspec.Struct, frozen=True):
    """A place that comes from no YAML."""

    line: int
    column: int


class Scalar(msgspec.Struct):
    """One value. ``quoted`` scalars are always text; plain ones take their type from the schema."""

    text: str
    place: Place
    quoted: bool = False


class Sequence(msgspec.Struct):
    """A list of values."""

    place: Place
    items: list[Node] = []


class Mapping(msgspec.Struct):
    """Keys and values in file order; ``keys`` holds the place of each key."""

    place: Place
    entries: dict[str, Node] = {}
    keys: dict[str, Place] = {}


Node = Scalar | Sequence | Mapping


def location(name: str, place: Place) -> Location:
    """Return a place in the file called ``name`` as it is shown."""
    return Location(name, place.line + 1, place.column + 1)


@dataclass(slots=True, frozen=True)
class Document:
    """A whole file: its name as shown to the user, and its root (None when the file is empty)."""

    name: str
    root: Node | None

    def locate(self, path: Path, *, key: bool = False) -> Location:
        """Return the location of the value at ``path`` (with ``key``: of its key).

        If there is no such value, return the location of the innermost value that would enclose it.
        """
        node = self.root
        if node is None:
            return Location(self.name, 1, 1)
        place = node.place
        for depth, step in enumerate(path):
            if isinstance(node, Mapping) and step in node.entries:
                if key and depth == len(path) - 1:
                    place = node.keys[str(step)]
                    break
                node = node.entries[str(step)]
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            else:
                break
            place = node.place
        return location(self.name, place)


def show_path(path: Path) -> str:
    """Return a path as text: ``('machines', 2, 'libvirt')`` as ``machines[2].libvirt``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
