"""Parsed YAML and JSON in which every value knows its line and column.

Scalars keep their text: which type a plain scalar has is decided by the schema
(``52:54:00:12:34:56``, ``on``, ``010`` stay what the user wrote), never by the parser.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvmcompose.core.errors import Location

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Scalar:
    """One value. ``quoted`` scalars are always text; plain ones take their type from the schema."""

    text: str
    line: int
    column: int
    quoted: bool = False


@dataclass(slots=True)
class Sequence:
    """A list of values."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """Keys and values in file order; ``keys`` holds the line and column of each key."""

    line: int
    column: int
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


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
        line, column = node.line, node.column
        for depth, step in enumerate(path):
            if isinstance(node, Mapping) and step in node.entries:
                if key and depth == len(path) - 1:
                    line, column = node.keys[str(step)]
                    break
                node = node.entries[str(step)]
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            else:
                break
            line, column = node.line, node.column
        return Location(self.name, line, column)


def show_path(path: Path) -> str:
    """Return a path as text: ``('machines', 2, 'libvirt')`` as ``machines[2].libvirt``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
