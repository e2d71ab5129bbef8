"""What the machines of large projects came to, kept in the user's cache folder.

Not in the project folder: that may come from the internet, and what is remembered is not checked again.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.resources import code_digest, schemas

_MODULES = tuple(
    f"kvmcompose.pipeline.{name}"
    for name in (
        "fitting",
        "pieces",
        "placing",
        "read",
        "schemas",
        "shape",
        "text",
        "validation",
        "wording",
        "yaml_nodes",
    )
)


class _Stored(msgspec.Struct):
    made_by: str
    machines: dict[str, Any]


class FolderMemory:
    """The memory of one project; implements ``kvmcompose.pipeline.pieces.Memory``."""

    def __init__(self, project: Path) -> None:
        name = hashlib.sha256(os.fsencode(project)).hexdigest()[:32]
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        home = cache if cache.is_absolute() else Path.home() / ".cache"
        self._path = home / "kvm-compose" / "shapes" / f"{name}.json"

    def known(self) -> dict[str, Any]:
        """What was remembered, if it was made by this code with these schemas."""
        try:
            stored = msgspec.json.decode(read_regular(self._path, limit=DOCUMENT_LIMIT), type=_Stored)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return {}
        return stored.machines if stored.made_by == _made_by() else {}

    def remember(self, values: dict[str, Any]) -> None:
        """Keep these; failing to is no harm."""
        with suppress(OSError):
            write_atomic(self._path, msgspec.json.encode(_Stored(_made_by(), values)), mode=0o600)


def _made_by() -> str:
    files = msgspec.json.encode(schemas().files, order="deterministic")
    return hashlib.sha256(files + code_digest(_MODULES).encode()).hexdigest()
