"""Whether a value has a schema's shape, by plain functions; only what has not goes to ``jsonschema``.

``jsonschema`` can say what is wrong, but takes longer to be imported than most testbeds take to be
checked, and a hundred times as long to say that nothing is wrong. So each part of a schema becomes a
function, and a value that it takes for right is right. A keyword that is not known here leaves the part
that it stands in to ``jsonschema`` altogether.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from kvmcompose.pipeline.schemas import Schema

    Check = Callable[[Any], bool]

#: Keywords that say nothing of what is right.
_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "default", "description", "examples", "title"})


class Fitting:
    """Checks values against schemas whose parts it remembers, for as long as it lives."""

    def __init__(self) -> None:
        self._checks: dict[int, tuple[Schema | bool, Check]] = {}

    def fits(self, schema: Schema | bool, value: object) -> bool:
        """Whether nothing is wrong with ``value``; False also when that cannot be told here."""
        known = self._checks.get(id(schema))
        if known is None:
            try:
                check = _check(schema)
            except _UnknownKeywordError:
                check = _never
            known = self._checks[id(schema)] = schema, check  # which keeps the schema, and so its id
        return known[1](value)


class _UnknownKeywordError(Exception):
    """A keyword that cannot be judged here."""


def _never(_value: object) -> bool:
    return False


def _check(schema: Schema | bool) -> Check:
    """A schema as a function that is exactly as strict. Raises _UnknownKeywordError."""
    if isinstance(schema, bool):
        return lambda _value: schema
    checks: list[Check] = []
    for keyword, operand in schema.items():
        if keyword in _ANNOTATIONS or keyword.startswith("x-"):
            continue
        if keyword not in _KEYWORDS:
            raise _UnknownKeywordError
        check = _KEYWORDS[keyword](operand, schema)
        if check is not None:
            checks.append(check)
    if len(checks) == 1:
        return checks[0]

    def fits(value: Any) -> bool:
        return all(check(value) for check in checks)

    return fits


def _is_integer(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, float) and value.is_integer()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, Check] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "null": lambda value: value is None,
    "number": _is_number,
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}


def _type(names: str | list[str], _: Schema) -> Check:
    if isinstance(names, str):
        return _TYPES[names]
    checks = [_TYPES[name] for name in names]
    return lambda value: any(check(value) for check in checks)


def _enum(choices: list[Any], _: Schema) -> Check:
    if not all(isinstance(choice, str) for choice in choices):
        raise _UnknownKeywordError  # 1, 1.0 and true have rules of their own
    return lambda value: isinstance(value, str) and value in choices


def _properties(properties: dict[str, Schema | bool], schema: Schema) -> Check:
    known = {name: _check(each) for name, each in properties.items()}
    others = schema.get("additionalProperties", True)
    check_other = None if others is True else _check(others)

    def fits(value: Any) -> bool:
        if not isinstance(value, dict):
            return True
        for name, part in value.items():
            check = known.get(name, check_other)
            if check is not None and not check(part):
                return False
        return True

    return fits


def _additional_properties(_: object, schema: Schema) -> Check | None:
    return None if "properties" in schema else _properties({}, schema)


def _property_names(names: Schema | bool, _: Schema) -> Check:
    check = _check(names)
    return lambda value: not isinstance(value, dict) or all(map(check, value))


def _required(names: list[str], _: Schema) -> Check:
    return lambda value: not isinstance(value, dict) or all(name in value for name in names)


def _dependent_schemas(schemas: dict[str, Schema | bool], _: Schema) -> Check:
    checks = {name: _check(each) for name, each in schemas.items()}
    return lambda value: (
        not isinstance(value, dict) or all(check(value) for name, check in checks.items() if name in value)
    )


def _items(items: Schema | bool, _: Schema) -> Check:
    check = _check(items)
    return lambda value: not isinstance(value, list) or all(map(check, value))


def _pattern(pattern: str, _: Schema) -> Check:
    found = compiled(pattern).search
    return lambda value: not isinstance(value, str) or found(value) is not None


def _one_of(schemas: list[Schema | bool], _: Schema) -> Check:
    checks = [_check(each) for each in schemas]
    return lambda value: sum(check(value) for check in checks) == 1


def _any_of(schemas: list[Schema | bool], _: Schema) -> Check:
    checks = [_check(each) for each in schemas]
    return lambda value: any(check(value) for check in checks)


def _all_of(schemas: list[Schema | bool], _: Schema) -> Check:
    checks = [_check(each) for each in schemas]
    return lambda value: all(check(value) for check in checks)


def _not(schema: Schema | bool, _: Schema) -> Check:
    check = _check(schema)
    return lambda value: not check(value)


def _least(of: type[Sized]) -> Callable[[int, Schema], Check]:
    return lambda limit, _: lambda value: not isinstance(value, of) or len(value) >= limit


def _most(of: type[Sized]) -> Callable[[int, Schema], Check]:
    return lambda limit, _: lambda value: not isinstance(value, of) or len(value) <= limit


_KEYWORDS: dict[str, Callable[[Any, Schema], Check | None]] = {
    "additionalProperties": _additional_properties,
    "allOf": _all_of,
    "anyOf": _any_of,
    "dependentSchemas": _dependent_schemas,
    "enum": _enum,
    "items": _items,
    "maxItems": _most(list),
    "maxLength": _most(str),
    "maxProperties": _most(dict),
    "maximum": lambda limit, _: lambda value: not _is_number(value) or value <= limit,
    "minItems": _least(list),
    "minLength": _least(str),
    "minProperties": _least(dict),
    "minimum": lambda limit, _: lambda value: not _is_number(value) or value >= limit,
    "not": _not,
    "oneOf": _one_of,
    "pattern": _pattern,
    "properties": _properties,
    "propertyNames": _property_names,
    "required": _required,
    "type": _type,
}


@lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str]:
    """A schema's pattern. In JSON Schema ``$`` is the very end, in Python also before a last newline."""
    return re.compile(pattern.removesuffix("$") + r"\Z" if pattern.endswith("$") else pattern)
