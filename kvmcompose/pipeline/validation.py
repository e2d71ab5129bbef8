"""Check whether a value conforms to a schema, and list all errors if it does not.

jsonschema-rs does the check: ten thousand machines take 20 ms. Its errors do not identify the part of the
schema well enough for our messages, so these come from ``jsonschema``, which is imported when something is
wrong.
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
    """Validates values against schemas, and keeps the validators and the schemas."""

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
        except ValueError:  # not JSON: text with half of a surrogate pair, or too deep
            return False

    def errors(self, schema: Schema | bool, value: object) -> Iterable[ValidationError]:
        """Return all errors of ``value``; paths in the errors are relative to ``value``."""
        if self.is_valid(schema, value):
            return ()
        if self._errors is None:
            from kvmcompose.pipeline.schema_errors import SchemaErrors  # noqa: PLC0415 (see above)

            self._errors = SchemaErrors().errors
        return self._errors(schema, value)
