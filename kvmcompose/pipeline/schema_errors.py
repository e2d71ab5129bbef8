"""List all errors of a value, with ``jsonschema``, for schemas without references.

``jsonschema`` creates a validator and a resolver of references for each value. Here each part of a schema has
one validator, which is created once: validating ten thousand machines takes a third of the time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmcompose.pipeline.schemas import Schema


class SchemaErrors:
    """Validates values against schemas, and keeps a validator for each part of them."""

    def __init__(self) -> None:
        keywords = {
            "additionalProperties": self._additional_properties,
            "items": self._items,
            "pattern": _pattern,
            "properties": self._properties,
        }
        self._validator: Any = extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]
        self._parts: dict[int, Any] = {}  # by the id of a schema, which its validator keeps alive

    def errors(self, schema: Schema | bool, value: object) -> Iterator[ValidationError]:
        """Yield all errors of ``value``; paths in the errors are relative to ``value``."""
        part = self._parts.get(id(schema))
        if part is None:
            part = self._parts[id(schema)] = self._validator(schema)
        errors: Iterator[ValidationError] = part.iter_errors(value)
        return errors

    def _below(self, schema: Schema | bool, value: object, step: str | int) -> Iterator[ValidationError]:
        if schema is True:
            return
        for error in self.errors(schema, value):
            error.path.appendleft(step)
            yield error

    def _properties(
        self, _: object, properties: Schema, value: object, __: object
    ) -> Iterator[ValidationError]:
        if isinstance(value, dict):
            for name, schema in properties.items():
                if name in value:
                    yield from self._below(schema, value[name], name)

    def _additional_properties(
        self, _: object, others: Schema | bool, value: object, schema: Schema
    ) -> Iterator[ValidationError]:
        if not isinstance(value, dict):
            return
        extra = [name for name in value if name not in schema.get("properties", {})]
        if isinstance(others, dict):
            for name in extra:
                yield from self._below(others, value[name], name)
        elif extra and not others:
            yield ValidationError("unknown keys")

    def _items(
        self, _: object, schema: Schema | bool, value: object, __: object
    ) -> Iterator[ValidationError]:
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._below(schema, item, index)


def _pattern(_: object, pattern: str, value: object, __: object) -> Iterator[ValidationError]:
    if isinstance(value, str) and not _compiled(pattern).search(value):
        yield ValidationError("does not match")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of a schema. In JSON Schema ``$`` matches at the very end only, in Python also before
    a final newline.
    """
    return re.compile(pattern.removesuffix("$") + r"\Z" if pattern.endswith("$") else pattern)
