"""Give each machine of a ``kvm-compose.yaml`` what its ``defaults`` say.

Nodes are merged before they get types, so that all later stages see whole machines, and each value keeps
the place where it is written. Mappings are merged deeply; lists and scalars of a machine replace the default.
An empty value (``key:`` or ``~``) removes the default. Of alternatives, those of the machine win.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.core.document import Document, Mapping, Node, Path, Scalar, Sequence, location
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.pipeline.schemas import DEFAULTS, MACHINES
from kvmcompose.pipeline.text import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmcompose.pipeline.schemas import Schema, Schemas

MAX_INHERITED_NODES = 4_000_000
"""How many values all machines together may get from the defaults: each is read and validated again."""


def with_defaults(document: Document, schemas: Schemas) -> Document:
    """Return the document with whole machines; its ``defaults`` remain, as the first key.

    Machines and defaults that are no mappings stay as they are. Raises InputError: ``too-large``.
    """
    root = document.root
    if not isinstance(root, Mapping) or not isinstance(root.entries.get(DEFAULTS), Mapping):
        return document
    defaults, machines = root.entries[DEFAULTS], root.entries.get(MACHINES)
    if not isinstance(defaults, Mapping) or not isinstance(machines, Sequence):
        return document
    network = root.entries.get("network")
    schema = schemas.testbed(schemas.recognise(network.entries if isinstance(network, Mapping) else {}))
    merge = _Merge(document.name, defaults, schema["properties"][MACHINES]["items"], schemas.guest_kinds)
    whole = Sequence(machines.place, [merge.machine(each) for each in machines.items])
    entries = {DEFAULTS: defaults, **root.entries, MACHINES: whole}
    return Document(document.name, Mapping(root.place, entries, root.keys))


def origin(document: Document, path: Path) -> Path:
    """Return the path of the value that is written: of one that a machine inherits, that in ``defaults``."""
    root = document.root
    if not isinstance(root, Mapping) or path[:1] != (MACHINES,) or DEFAULTS not in root.entries:
        return path
    node: Node | None = root.entries.get(MACHINES)
    index = path[1] if len(path) > 1 else None
    if not isinstance(node, Sequence) or not isinstance(index, int) or index >= len(node.items):
        return path
    node, default = node.items[index], root.entries[DEFAULTS]
    for step in path[2:]:
        if not isinstance(node, Mapping) or not isinstance(default, Mapping):
            return path
        found, inherited = node.entries.get(str(step)), default.entries.get(str(step))
        if found is None or inherited is None:
            return path
        if found is inherited:
            return (DEFAULTS, *path[2:])
        node, default = found, inherited
    return path


def heir(document: Document, path: Path) -> str | None:
    """Return the machine that inherits the value at ``path``, by name; None if it is not inherited."""
    if origin(document, path) == path:
        return None
    node = document.root
    for step in (*path[:2], "name"):
        if isinstance(node, Sequence):
            node = node.items[int(step)]
        elif isinstance(node, Mapping):
            node = node.entries.get(str(step))
    return node.text if isinstance(node, Scalar) else None


class _Merge:
    """Merges the defaults of one document into its machines."""

    def __init__(self, name: str, defaults: Mapping, schema: Schema, kinds: tuple[str, ...]) -> None:
        self._name = name
        self._defaults = defaults
        self._schema = schema
        self._kinds = kinds
        self._sizes: dict[int, int] = {}  # by the id of a node of the defaults
        self._inherited = 0
        #: The defaults of a machine by the kinds that it has: sections of other kinds are not for it.
        self._of_kinds: dict[frozenset[str], Mapping] = {}

    def machine(self, own: Node) -> Node:
        if not isinstance(own, Mapping):
            return own
        present = frozenset(kind for kind in self._kinds if kind in own.entries)
        default = self._of_kinds.get(present)
        if default is None:
            entries = {
                key: each
                for key, each in self._defaults.entries.items()
                if key in present or key not in self._kinds
            }
            default = self._of_kinds[present] = Mapping(self._defaults.place, entries, self._defaults.keys)
        if present & {key for key, each in own.entries.items() if _is_empty(each)}:
            # it says of which kind the machine is, and removes nothing
            filled = {
                key: Mapping(each.place) if key in present and _is_empty(each) else each
                for key, each in own.entries.items()
            }
            own = Mapping(own.place, filled, own.keys)
        merged = self._merged(default, own, self._schema)
        if self._inherited > MAX_INHERITED_NODES:
            raise InputError([
                Problem(
                    code="too-large",
                    message=f"up to here, the defaults expand to more than {MAX_INHERITED_NODES:,} values",
                    location=location(self._name, own.place),
                )
            ])  # fmt: skip
        return merged

    def _merged(self, default: Mapping, own: Mapping, schema: Schema | bool) -> Mapping:
        if own is default:  # an alias
            return own
        if isinstance(schema, bool):
            schema = {}
        excluded = frozenset(_excluded(default, own, schema))
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        entries: dict[str, Node] = {}
        keys = own.keys.copy()
        for key, inherited in default.entries.items():
            mine = own.entries.get(key)
            if mine is None:
                if key in excluded:
                    continue
                self._inherited += self._size(inherited)
                entries[key] = inherited
                keys[key] = default.keys[key]
            elif isinstance(mine, Mapping) and isinstance(inherited, Mapping):
                entries[key] = self._merged(inherited, mine, properties.get(key, others))
            elif not _is_empty(mine):
                entries[key] = mine
        entries |= {key: each for key, each in own.entries.items() if key not in default.entries}
        return Mapping(own.place, entries, keys)

    def _size(self, node: Node) -> int:
        known = self._sizes.get(id(node))
        if known is None:
            parts = node.items if isinstance(node, Sequence) else ()
            parts = list(node.entries.values()) if isinstance(node, Mapping) else parts
            known = self._sizes[id(node)] = 1 + sum(map(self._size, parts))
        return known


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.quoted and node.text in EMPTY


def _excluded(default: Mapping, own: Mapping, schema: Schema) -> Iterator[str]:
    """Yield the keys of the defaults that alternatives of the machine exclude.

    The schema says which keys are alternatives: with ``maxProperties: 1`` all of a mapping, otherwise those
    that different branches of ``oneOf`` require.
    """
    given = [key for key, each in own.entries.items() if not (key in default.entries and _is_empty(each))]
    if schema.get("maxProperties") == 1 and given:
        yield from default.entries
        return
    branches = [frozenset(each.get("required", ())) for each in schema.get("oneOf", ())]
    chosen = next((branch for branch in branches if not branch.isdisjoint(given)), None)
    for branch in branches if chosen is not None else ():
        yield from branch - (chosen or frozenset())
