"""A property that is computed once per instance, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 (used like cached_property)
    """As ``functools.cached_property``, whose one lock for all instances (until Python 3.12) would let one
    that hangs, reading a file, hang all others.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        """Computed at first; from then on the instance's own attribute is found before this."""
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value
