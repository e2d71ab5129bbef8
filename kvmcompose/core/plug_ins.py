"""Modules that are found by their names, and offer what they want of an interface."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any


def with_defaults(module: ModuleType, defaults: Mapping[str, object]) -> Any:
    """Return a module that has the default of all that it does not offer."""
    for name, default in defaults.items():
        if not hasattr(module, name):
            setattr(module, name, default)
    return module
