"""Labels of guests, and selecting guests by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Selector(msgspec.Struct, frozen=True):
    """``KEY=VALUE`` selects guests with that value; ``KEY`` alone those with any value."""

    key: str
    value: str | None = None

    @staticmethod
    def parse(text: str) -> Selector:
        """Parse ``KEY=VALUE`` or ``KEY``. Raises ValueError without a key."""
        key, separator, value = text.partition("=")
        if not key:
            raise ValueError(f"{text!r} has no key")
        return Selector(key, value if separator else None)

    def __str__(self) -> str:
        """Return it as ``parse`` takes it."""
        return self.key if self.value is None else f"{self.key}={self.value}"


def selected(guests: Mapping[str, Mapping[str, str]], selectors: Sequence[Selector]) -> list[str]:
    """Return the names of the guests that every selector selects, in the order of ``guests``."""
    return [
        name
        for name, labels in guests.items()
        if all(each.key in labels and each.value in (None, labels[each.key]) for each in selectors)
    ]
