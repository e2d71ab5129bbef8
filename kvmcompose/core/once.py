"""A property that is computed once per instance, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 (used like cached_property)
    """A ``functools.cached_property`` without a lock.

    Until Python 3.12 that has one lock for all instances: one instance that blocks while it reads a file
    would block all others.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        """Compute the value, and store it in the instance, where later accesses find it first."""
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value
