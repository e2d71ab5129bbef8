"""Environment variables that are on or off."""

from __future__ import annotations

import os


def is_on(variable: str) -> bool:
    """Return whether a variable is set to anything but nothing, ``0``, ``false`` or ``no``."""
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "no")
