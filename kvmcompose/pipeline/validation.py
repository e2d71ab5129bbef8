"""Whether a value has the shape that a schema asks for, and if not, every reason.

jsonschema-rs says whether: it checks ten thousand machines in 20 ms. Its errors do not say which part of a
schema failed in a way that messages could be made of, so those come from ``jsonschema``, which is imported
when something is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonschema_rs import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jsonschema import ValidationError

    from kvmcompose.pipeline.schemas import Schema

    Errors = Callable[[Schema | bool, object], Iterable[ValidationError]]


class Validation:
    """Validates values against schemas, whose validators it keeps for as long as it lives."""

    def __init__(self) -> None:
        # by the id of a schema, which is kept alive here
        self._validators: dict[int, tuple[Schema | bool, Draft202012Validator]] = {}
        self._errors: Errors | None = None

    def is_valid(self, schema: Schema | bool, value: object) -> bool:
        """Return whether ``value`` conforms to ``schema``, which has no references."""
        known = self._validators.get(id(schema))
        if known is None:
            known = self._validators[id(schema)] = schema, Draft202012Validator(schema)
        try:
            return known[1].is_valid(value)
        except ValueError:  # it is no JSON: a text with half of a surrogate pair, or too deep
            return False

    def errors(self, schema: Schema | bool, value: object) -> Iterable[ValidationError]:
        """Return everything that is wrong with ``value``; paths in the errors start at ``value``."""
        if self.is_valid(schema, value):
            return ()
        if self._errors is None:
            from kvmcompose.pipeline.schema_errors import SchemaErrors  # noqa: PLC0415 (see above)

            self._errors = SchemaErrors().errors
        return self._errors(schema, value)
