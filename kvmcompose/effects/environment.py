"""Read environment variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_XDG_FOLDERS = {"cache": ".cache", "data": ".local/share", "state": ".local/state"}


def xdg_folder(kind: Literal["cache", "data", "state"]) -> Path:
    """Return our folder in one of the user's base folders (XDG Base Directory Specification, "Basics")."""
    named = absolute_folder(f"XDG_{kind.upper()}_HOME")
    return (named or Path.home() / _XDG_FOLDERS[kind]) / "kvm-compose"


def absolute_folder(variable: str) -> Path | None:
    """Return the folder that a variable names; a relative one is invalid and ignored, as XDG demands."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def is_on(variable: str) -> bool:
    """Return whether a variable is set to anything but nothing, ``0``, ``false`` or ``no``."""
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "no")
