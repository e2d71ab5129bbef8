"""Where what is in a YAML file of the user's: its syntax is checked, and values keep their line and column.

Aliases are not followed, so that no file is larger than it looks; what kind of value one stands for is known.
"""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from kvmcompose.core.errors import Location

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STARTS = {yaml.MappingStartEvent: "mapping", yaml.SequenceStartEvent: "list"}
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
#: As in kvm-compose.yaml; libyaml takes ever longer for each level.
_DEEPEST = 100


class YamlPlaces(msgspec.Struct, frozen=True):
    """The values of a YAML document by their paths; ``root`` and ``keys`` (at its top) are of these kinds:
    ``mapping``, ``list``, ``value``. ``flaw`` is what is wrong with the syntax, at its location.
    """

    root: str = ""
    keys: dict[str, str] = {}
    places: dict[tuple[str | int, ...], Location] = {}
    flaw: tuple[str, Location] | None = None
    aliases: int = 0

    def near(self, path: tuple[str | int, ...]) -> Location | None:
        """Return the location of the value at a path, or of the innermost one around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path)


class _Level(msgspec.Struct):
    """A mapping or list that is open. ``key`` is that of a mapping whose value comes next."""

    path: tuple[str | int, ...]
    is_list: bool
    count: int = 0
    key: str | None = None


def yaml_places(text: str, name: str) -> YamlPlaces:
    """Return what is in the first document of a text, which is in the file called ``name``."""
    loader: Any = _LOADER(text)
    found = YamlPlaces()
    open_levels: list[_Level] = []
    aliases = 0
    anchors: dict[str, str] = {}
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.DocumentEndEvent):
                break
            if isinstance(event, _ENDS):
                open_levels.pop()
                continue
            kind = _kind(event, anchors)
            if kind is None:
                continue
            aliases += isinstance(event, yaml.AliasEvent)
            mark = event.start_mark
            path = _path(open_levels[-1], event) if open_levels else ()
            if path is not None:
                # keys come first, and are what a reader looks for
                found.places.setdefault(path, Location(name, mark.line + 1, mark.column + 1))
                if not open_levels:
                    found = msgspec.structs.replace(found, root=kind)
                elif len(path) == 1 and found.root == "mapping":
                    found.keys.setdefault(str(path[0]), "value")
                    found.keys[str(path[0])] = kind
            if type(event) in _STARTS:
                _open(open_levels, _Level(path or (), kind == "list"), mark)
    except yaml.YAMLError as error:
        return YamlPlaces(flaw=_flaw(error, name))
    finally:
        loader.dispose()
    return msgspec.structs.replace(found, aliases=aliases)


def _kind(event: Any, anchors: dict[str, str]) -> str | None:
    """Return what kind of value begins, None for none; note its anchor. An alias is what its anchor is."""
    if isinstance(event, yaml.AliasEvent):
        return anchors.get(event.anchor or "", "value")
    kind = _STARTS.get(type(event)) or ("value" if isinstance(event, yaml.ScalarEvent) else None)
    if kind is not None and event.anchor is not None:
        anchors[event.anchor] = kind
    return kind


def _open(levels: list[_Level], level: _Level, mark: Any) -> None:
    if len(levels) == _DEEPEST:
        raise yaml.MarkedYAMLError(problem=f"nested deeper than {_DEEPEST} levels", problem_mark=mark)
    levels.append(level)


def _path(level: _Level, event: Any) -> tuple[str | int, ...] | None:
    """Return the path of what comes next in a list or mapping; of a key, that of its value."""
    if level.is_list:
        level.count += 1
        return (*level.path, level.count - 1)
    if level.key is None:
        level.key = str(getattr(event, "value", ""))
        return (*level.path, level.key)
    key, level.key = level.key, None
    return (*level.path, key)


def _flaw(error: yaml.YAMLError, name: str) -> tuple[str, Location]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    at = Location(name, mark.line + 1, mark.column + 1) if mark else Location(name)
    words = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
    return f"not valid YAML: {words}", at
