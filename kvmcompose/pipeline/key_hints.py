"""Hints for unknown keys: the key that was probably meant, or the place where this key is valid."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from kvmcompose.pipeline.schemas import DEFAULTS, MACHINES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmcompose.core.document import Path
    from kvmcompose.pipeline.schemas import Schema

Place = tuple[str, ...]
"""The path of an object in a schema: names of keys, ``[]`` for any item, ``*`` for any name."""

_SURE = 0.75  # a typing error, so that no other explanation is needed
_LIKELY = 0.6


def unknown_key_hint(key: str, path: Path, here: Schema, whole: Schema) -> str | None:
    """Return a hint for ``key``, which the object at ``path``, with the schema ``here``, does not have.

    ``whole`` is the schema of the whole document.
    """
    known: list[str] = list(here.get("properties", {}))
    if hint := here.get("x-unknown-hints", {}).get(key):
        return str(hint)
    if same := [name for name in known if _letters(name) == _letters(key)]:
        return meant(same[0])
    if near := get_close_matches(key, known, 1, _SURE):
        return meant(near[0])
    if place := _right_place(key, path, whole):
        return place
    if near := get_close_matches(key, known, 1, _LIKELY):
        return meant(near[0])
    return f"known here: {', '.join(known)}" if known else None


def meant(name: str) -> str:
    """Return the hint for a key that is probably a misspelt ``name``."""
    return f"did you mean '{name}'?"


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _right_place(key: str, path: Path, whole: Schema) -> str | None:
    own = _place(path, whole)
    known = dict.fromkeys(_places(key, whole, ()))
    # what machines and their defaults have in common is where the key is
    twin = MACHINES if own[:1] == (DEFAULTS,) else DEFAULTS
    places = [place for place in known if place[:1] != (twin,)]
    if below := [place[len(own) :] for place in places if place[: len(own)] == own]:
        nearest = [_show(place) for place in below if len(place) == min(map(len, below))]
        return "it belongs under " + " or ".join(f"'{place}'" for place in nearest)
    if above := [place for place in places if own[: len(place)] == place]:
        passed = [step for step in own[len(max(above, key=len)) :] if step not in ("[]", "*")]
        if passed:
            levels = "one level" if len(passed) == 1 else f"{len(passed)} levels"
            return f"it belongs {levels} up, beside '{passed[0]}'"
    # a key that is valid in several other places, as 'name' and 'path' are, points to none of them
    return f"it belongs under '{_show(places[0])}'" if len(places) == 1 and places[0] else None


def _place(path: Path, whole: Schema) -> Place:
    schema, place = whole, []
    for step in path:
        if isinstance(step, int):
            schema = _object(schema.get("items"))
            place.append("[]")
        elif step in schema.get("properties", {}):
            schema = _object(schema["properties"][step])
            place.append(step)
        else:
            schema = _object(schema.get("additionalProperties"))
            place.append("*")
    return tuple(place)


def _places(key: str, schema: Schema, place: Place) -> Iterator[Place]:
    """Yield the path of each object of the schema that has the property ``key``."""
    properties = schema.get("properties", {})
    if key in properties:
        yield place
    for name, each in properties.items():
        yield from _places(key, _object(each), (*place, name))
    yield from _places_inside(key, schema, place)


def _places_inside(key: str, schema: Schema, place: Place) -> Iterator[Place]:
    for keyword, step in (("items", "[]"), ("additionalProperties", "*")):
        if inner := _object(schema.get(keyword)):
            yield from _places(key, inner, (*place, step))


def _object(schema: object) -> Schema:
    """Return a part of a schema; true, false and a missing part as an empty schema."""
    return schema if isinstance(schema, dict) else {}


def _show(place: Place) -> str:
    text = ""
    for step in place:
        text += step if step == "[]" or not text else f".{step}"
    return text
