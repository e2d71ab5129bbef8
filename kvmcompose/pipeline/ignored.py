"""Warn of keys that files of the existing system have and that nothing uses: ``x-ignored`` in the schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvmcompose.core.errors import Complaint, Severity

if TYPE_CHECKING:
    from kvmcompose.core.document import Path
    from kvmcompose.pipeline.schemas import Schema


def ignored_keys(value: Any, schema: Schema) -> Iterator[Complaint]:
    """Yield a warning for each key that has no effect, at its first place. ``value`` conforms to it."""
    seen: set[tuple[str, str]] = set()
    for complaint in _walk(value, schema, ()):
        key = str(complaint.path[-1]), complaint.message
        if key not in seen:
            seen.add(key)
            yield complaint


def _walk(value: Any, schema: Schema | bool, path: Path) -> Iterator[Complaint]:
    if isinstance(schema, bool):
        return
    if isinstance(value, list):
        items = schema.get("items", True)
        for index, item in enumerate(value if items is not True else ()):
            yield from _walk(item, items, (*path, index))
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        for key, item in value.items():
            part = properties.get(key, others)
            why = part.get("x-ignored") if isinstance(part, dict) else None
            if why is None:
                yield from _walk(item, part, (*path, key))
            elif item is not None:
                yield Complaint(
                    code="ignored-key",
                    path=(*path, key),
                    message=f"'{key}' has no effect: {why}",
                    at_key=True,
                    severity=Severity.WARNING,
                )
