"""Compose YAML events into nodes with their line and column.

libyaml scans and parses. PyYAML's composer is not used, because it keeps the last of duplicate keys; nor its
constructor, which turns ``on`` into a boolean and ``52:54:00:12:34:56`` into a number.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

from kvmcompose.core.document import Mapping, Node, Place, Scalar, Sequence, location
from kvmcompose.core.errors import InputError, Location, Problem
from kvmcompose.pipeline.text import EMPTY, MAX_DEPTH, UNPRINTABLE, unprintable

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ALIASED_NODES = 1_000_000
"""How many nodes all aliases together may expand to. More is an attack, or a mistake of the same effect."""

Extent = tuple[int, int]  # how many nodes, and how many levels of lists and mappings
Event = Any  # one of yaml.events; PyYAML's stubs give an event neither marks nor an anchor

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = {f"{_CORE}{name}": name == "str" for name in ("str", "int", "float", "bool", "null")}
_SCALAR_TAGS["!"] = True  # the non-specific tag: "this is text" (YAML 1.2, section 3.3.2)

# libyaml's messages, and their usual cause.
_SYNTAX_HINTS = (
    ("mapping values are not allowed", "quote a value that contains ': '; otherwise check the indentation"),
    ("could not find expected ':'", "a key is followed by ':' and a space"),
    ("did not find expected key", "check the indentation, and that every quote is closed"),
    ("did not find expected '-' indicator", "all items of a list start in the same column"),
    ("did not find expected ',' or", "a list ends with ']', a mapping with '}'; items are separated by ','"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("that cannot start any token", "a value that starts with this character needs quotes"),
    ("found undefined tag handle", "a value that starts with '!' needs quotes"),
    ("did not find expected alphabetic", "a value that starts with '&' or '*' needs quotes"),
    (
        "unknown escape character",
        "inside \"…\" a backslash is written \\\\; inside '…' it is written as it is",
    ),
)


# The scanner reports these far from the mistake, which is where the quote or the key starts.
_NOTICED_LATE = frozenset({"could not find expected ':'", "found unexpected end of stream"})


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause cyclic garbage collection: with a million young nodes it takes most of the run time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compose_yaml(text: str, name: str) -> Node | None:
    """Return the root of the document in ``text``, or None when it is empty.

    Raises InputError; see ``kvmcompose.pipeline.read.read_yaml`` for the codes.
    """
    loader = _LOADER(text)
    composer = _Composer(loader, name)
    try:
        with collector_paused():
            root = composer.document()
    except yaml.MarkedYAMLError as error:
        composer.problems.append(_syntax_problem(error, text, name))
    finally:
        loader.dispose()
    if composer.problems:
        raise InputError(composer.problems)
    return root


class _Composer:
    """Composes the events of one file into nodes.

    Problems that do not prevent further reading are collected in ``problems``, so that one run reports all.
    """

    def __init__(self, loader: Any, name: str) -> None:
        self.next_event = loader.get_event
        self.name = name
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node | None] = {}  # None while the anchored node is still being read
        self.extents: dict[int, Extent] = {}  # by the id of an anchored node …
        self.anchored: list[Node] = []  # … which is kept alive here, so that no other node gets its id
        self.aliased_nodes = 0

    def document(self) -> Node | None:
        self.next_event()  # the start of the stream
        if isinstance(self.next_event(), StreamEndEvent):
            return None
        root = self.node(self.next_event(), 0)
        self.next_event()  # the end of the document
        following = self.next_event()
        if isinstance(following, DocumentStartEvent):
            self.stop("several-documents", "a second YAML document starts here, only one is read", following,
                      "remove this '---' and the rest, or move the rest to another file")  # fmt: skip
        if isinstance(root, Scalar) and not root.quoted and root.text in EMPTY:
            return None
        return root

    def node(self, event: Event, depth: int) -> Node:
        kind = type(event)
        node: Node
        if kind is ScalarEvent:
            node = self.scalar(event)
        elif kind is AliasEvent:
            return self.alias(event, depth)
        elif depth == MAX_DEPTH:
            self.too_deep(event)
        else:
            anchor = event.anchor
            if anchor is not None:
                self.anchors[anchor] = None
            if kind is MappingStartEvent:
                node = self.mapping(event, depth + 1)
            else:
                node = self.sequence(event, depth + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
            self.extents[id(node)] = self.extent(node)
            self.anchored.append(node)
        return node

    def scalar(self, event: Event) -> Scalar:
        text = event.value
        quoted = bool(event.style)
        if event.tag is not None:
            if event.tag in _SCALAR_TAGS:
                quoted = _SCALAR_TAGS[event.tag]
            else:
                self.refuse_tag(event)
        if event.style == '"' and (found := UNPRINTABLE.search(text)):
            self.problems += unprintable(found.group(), self.at(event)).problems
        return Scalar(text, event.start_mark, quoted)

    def sequence(self, start: Event, depth: int) -> Sequence:
        if start.tag is not None and start.tag not in (f"{_CORE}seq", "!"):
            self.refuse_tag(start)
        items: list[Node] = []
        while type(event := self.next_event()) is not SequenceEndEvent:
            items.append(self.node(event, depth))
        return Sequence(start.start_mark, items)

    def mapping(self, start: Event, depth: int) -> Mapping:
        if start.tag is not None and start.tag not in (f"{_CORE}map", "!"):
            self.refuse_tag(start)
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merge: Node | None = None
        while type(event := self.next_event()) is not MappingEndEvent:
            key = self.key(event)
            value = self.node(self.next_event(), depth)
            if key in keys:
                self.refuse_duplicate(key, keys[key], event)
                continue
            keys[key] = event.start_mark
            if key == "<<" and not event_is_quoted(event):
                merge = value
            else:
                entries[key] = value
        mapping = Mapping(start.start_mark, entries, keys)
        if merge is not None:
            del keys["<<"]
            self.merge(mapping, merge)
        return mapping

    def key(self, event: Event) -> str:
        if type(event) is ScalarEvent:
            if event.anchor is None and event.tag is None and event.style != '"':
                return event.value
            node = self.node(event, 0)
        elif type(event) is AliasEvent:
            node = self.alias(event, 0)
        else:
            node = None
        if not isinstance(node, Scalar):
            self.stop("bad-key", "a key must be a single word or text, not a list or mapping", event,
                      "a value that starts with '{' or '[' needs quotes")  # fmt: skip
        return node.text

    def merge(self, into: Mapping, source: Node) -> None:
        """Merge ``<<`` (yaml.org/type/merge.html): own keys take precedence, then earlier sources."""
        sources = source.items if isinstance(source, Sequence) else [source]
        for mapping in sources:
            if not isinstance(mapping, Mapping):
                self.problems.append(
                    Problem(
                        code="bad-merge",
                        message="'<<' takes a mapping or a list of mappings",
                        location=location(self.name, mapping.place),
                        hint="name an anchored mapping: <<: *defaults",
                    )
                )
                continue
            for key, value in mapping.entries.items():
                if key not in into.entries:
                    into.entries[key] = value
                    into.keys[key] = mapping.keys[key]

    def alias(self, event: Event, depth: int) -> Node:
        name = event.anchor
        if name not in self.anchors:
            self.stop("unknown-alias", f"there is no anchor '&{name}' above this alias", event,
                      "a value that starts with '*' needs quotes")  # fmt: skip
        node = self.anchors[name]
        if node is None:
            self.stop("recursive-alias", f"the alias '*{name}' is inside the part that it repeats", event)
        nodes, height = self.extents[id(node)]
        if depth + height > MAX_DEPTH:
            self.too_deep(event)
        self.aliased_nodes += nodes
        if self.aliased_nodes > MAX_ALIASED_NODES:
            message = f"the aliases up to here expand to more than {MAX_ALIASED_NODES:,} nodes"
            self.stop("alias-bomb", message, event)
        return node

    def extent(self, node: Node) -> Extent:
        """Return the size of a node with all aliases expanded; anchored nodes are already measured."""
        known = self.extents.get(id(node))
        if known is not None:
            return known
        if isinstance(node, Scalar):
            return 1, 0
        children = node.items if isinstance(node, Sequence) else node.entries.values()
        nodes, height = 1, 0
        for child_nodes, child_height in map(self.extent, children):
            nodes += child_nodes
            height = max(height, child_height)
        return nodes, height + 1

    def refuse_duplicate(self, key: str, first: Place, event: Event) -> None:
        hint = "merge several mappings with one key: <<: [*first, *second]" if key == "<<" else None
        message = f"the key '{key}' is given twice, first at {location(self.name, first)}"
        self.problems.append(
            Problem(code="duplicate-key", message=message, location=self.at(event), hint=hint)
        )

    def refuse_tag(self, event: Event) -> None:
        tag = str(event.tag)
        shown = f"!!{tag.removeprefix(_CORE)}" if tag.startswith(_CORE) else tag
        self.problems.append(
            Problem(
                code="bad-tag",
                message=f"the tag '{shown}' is not allowed here",
                location=self.at(event),
                hint="a value that starts with '!' needs quotes",
            )
        )

    def at(self, event: Event) -> Location:
        return location(self.name, event.start_mark)

    def too_deep(self, event: Event) -> NoReturn:
        self.stop("too-deep", f"nested deeper than {MAX_DEPTH} levels", event)

    def stop(self, code: str, message: str, event: Event, hint: str | None = None) -> NoReturn:
        problem = Problem(code=code, message=message, location=self.at(event), hint=hint)
        raise InputError([*self.problems, problem])


def event_is_quoted(event: Event) -> bool:
    """Return whether a key is in quotes: ``"<<"`` is an ordinary key."""
    return bool(getattr(event, "style", None))


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, name: str) -> Problem:
    what = error.problem or error.context or "cannot be read"
    mark = error.problem_mark or error.context_mark
    if error.context_mark and what in _NOTICED_LATE:
        mark = error.context_mark
    at = location(name, mark) if mark else Location(name)
    message = f"not valid YAML: {what}"
    if error.context and error.context_mark and mark and error.context_mark.line != mark.line:
        message += f", {error.context} that starts at line {error.context_mark.line + 1}"
    hint = next((hint for words, hint in _SYNTAX_HINTS if words in what), None)
    if mark and _indented_by_tab(text, mark.line):
        hint = "indent with spaces: YAML does not allow tabs there"
    return Problem(code="yaml-syntax", message=message, location=at, hint=hint)


def _indented_by_tab(text: str, line: int) -> bool:
    # libyaml reports some tabs on the following line
    near = text.split("\n", line + 1)[max(0, line - 1) : line + 1]
    return any("\t" in each[: len(each) - len(each.lstrip())] for each in near)
