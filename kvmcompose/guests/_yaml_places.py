"""What is where in a YAML file of the user's, as cloud-init reads it, which uses PyYAML: with merge keys.

Aliases are not followed, so that no file is larger than it looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml
from yaml.composer import Composer, ComposerError

from kvmcompose.core.errors import Location

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = {yaml.MappingNode: "mapping", yaml.SequenceNode: "list", yaml.ScalarNode: "value"}
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
#: What is read by cloud-init: the tags of PyYAML's SafeLoader, and one of its own.
_TAGS = frozenset({*filter(None, _LOADER.yaml_constructors), f"{_TAG}python/unicode", _MERGE, f"{_TAG}value"})
#: As in kvm-compose.yaml; libyaml takes ever longer for each level.
_DEEPEST = 100
#: With more, a file may be a bomb, which whoever expands them would set off.
_MOST_ALIASES = 10


class YamlPlaces(msgspec.Struct, frozen=True):
    """The values of a YAML document by their paths; ``root`` and ``keys`` (at its top, merged ones included)
    are of these kinds: ``mapping``, ``list``, ``value``. ``flaw`` is what is wrong with the syntax, at its
    location. ``hidden``: keys at its top that are not read, because the same key follows.
    """

    root: str = ""
    keys: dict[str, str] = {}
    places: dict[tuple[str | int, ...], Location] = {}
    flaw: tuple[str, Location] | None = None
    aliases: int = 0
    hidden: tuple[tuple[str, Location], ...] = ()

    @property
    def are_few_aliases(self) -> bool:
        """Whether they can be expanded; with more, the document may be a bomb."""
        return self.aliases <= _MOST_ALIASES

    def near(self, path: tuple[str | int, ...]) -> Location | None:
        """Return the location of the value at a path, or of the innermost one around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path)


class _Loader(Composer, _LOADER):  # type: ignore[misc, valid-type]
    """libyaml's parser with a composer that has a limit of levels.

    Scalars remain text: no conversion takes long, or fails.
    """

    yaml_constructors = _LOADER.yaml_constructors | {
        f"{_TAG}{name}": _LOADER.construct_yaml_str
        for name in ("int", "float", "bool", "timestamp", "binary", "python/unicode")
    }

    def __init__(self, text: str) -> None:
        _LOADER.__init__(self, text)
        Composer.__init__(self)
        self.depth = self.aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node. Raises MarkedYAMLError for one that is too deep."""
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_DEEPEST} levels", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def yaml_places(text: str, name: str) -> YamlPlaces:
    """Return what is in a text of one document, which is in the file called ``name``."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        places = {path: _location(name, node.start_mark) for path, node in _nodes(root)}
        keys = {}
        for key, value in _entries(root):
            keys[key.value] = _KINDS[type(value)]
            places.setdefault((key.value,), _location(name, key.start_mark))
    except yaml.YAMLError as error:
        return YamlPlaces(flaw=_flaw(error, name))
    finally:
        loader.dispose()
    hidden = tuple((key.value, _location(name, key.start_mark)) for key in _hidden(root))
    return YamlPlaces(_KINDS.get(type(root), ""), keys, places, aliases=loader.aliases, hidden=hidden)


def yaml_value(text: str) -> Any:
    """Return what a text without flaws contains; scalars are text. Aliases are expanded: a caller limits
    their number. Raises ValueError where PyYAML does not build it.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    finally:
        loader.dispose()


def _nodes(root: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield the values below a node by their paths, each once; in place of a mapping's values, their keys.

    Raises MarkedYAMLError for what PyYAML does not build: unknown tags, and merges of what is no mapping.
    """
    seen: set[int] = set()
    pending: list[tuple[tuple[str | int, ...], Any, Any]] = [((), root, root)] if root is not None else []
    while pending:
        path, key, node = pending.pop()
        # keys come first, and are what a reader looks for
        yield path, key
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag not in _TAGS:
            raise _wrong(f"no tag that cloud-init knows: {node.tag!r}", node)
        below: list[tuple[tuple[str | int, ...], Any, Any]] = []
        if isinstance(node, yaml.SequenceNode):
            below = [((*path, number), each, each) for number, each in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if not isinstance(name, yaml.ScalarNode):
                    raise _wrong("a key is a single word or text, no list or mapping", name)
                below.append(((*path, name.value), name, value))
            for _ in _merged(node):
                pass
        # in the order of the text: a node is met at its anchor, before any alias
        pending += reversed(below)


def _entries(root: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the keys and values of a mapping, once each, with those that it merges (``<<``)."""
    found: set[str] = set()
    seen: set[int] = set()
    pending = [root] if isinstance(root, yaml.MappingNode) else []
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for key, value in reversed(node.value):  # the last of several is read
            if key.tag != _MERGE and key.value not in found:
                found.add(key.value)
                yield key, value
        pending += reversed([*_merged(node)])


def _hidden(root: Any) -> Iterator[Any]:
    """Yield the keys of a mapping that are given again later; those that it merges give way anyway."""
    seen: set[str] = set()
    for key, _ in reversed(root.value if isinstance(root, yaml.MappingNode) else ()):
        if key.value in seen and key.tag != _MERGE:
            yield key
        seen.add(key.value)


def _merged(node: Any) -> Iterator[Any]:
    """Yield the mappings that one merges, the one that takes precedence first."""
    for key, value in reversed(node.value):
        if key.tag == _MERGE:
            for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(each, yaml.MappingNode):
                    raise _wrong("'<<' takes a mapping or a list of mappings", each)
                yield each


def _location(name: str, mark: Any) -> Location:
    return Location(name, mark.line + 1, mark.column + 1)


def _wrong(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _flaw(error: yaml.YAMLError, name: str) -> tuple[str, Location]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    told = (getattr(error, key, None) for key in ("problem", "context", "reason"))  # of ReaderError: reason
    words = next(filter(None, told), str(error))
    if isinstance(error, ComposerError) and error.context is not None:
        context = error.context.removesuffix("; first occurrence")
        words = context if context != error.context else f"{context}, {words}"
    return f"not valid YAML: {words}", _location(name, mark) if mark else Location(name)
