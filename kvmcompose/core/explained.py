"""What an artefact is made of, and what of that has changed: the JSON of ``kvm-compose why``."""

from __future__ import annotations

from typing import Any

import msgspec

_SHA256 = 64


class RecipeChange(msgspec.Struct, frozen=True):
    """One leaf of the inputs that has changed; None means missing."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        """``values.memory_mb: 512 -> 1024``; digests are shortened."""
        return f"{self.name}: {_show(self.before)} -> {_show(self.after)}"


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of an artefact, those that have changed since it was built, and what a build would do.

    ``recipe`` is the digest of the inputs, ``built_from`` that of the inputs of the last build.
    """

    path: str
    task: str
    action: str
    reasons: tuple[str, ...]
    recipe: str
    built_from: str | None
    inputs: dict[str, Any]
    changed: tuple[RecipeChange, ...]


def _show(value: Any) -> str:
    if isinstance(value, str) and len(value) == _SHA256 and set(value) <= set("0123456789abcdef"):
        return f"{value[:8]}…"
    return msgspec.json.encode(value).decode() if value is not None else "nothing"
