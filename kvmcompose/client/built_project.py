"""Which deployment a folder stands for."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvmcompose.core.names import PROJECT_NAME, project_name_from
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular


class BuiltProject(msgspec.Struct):
    """What of a ``state.json`` says what it is of: the project's name, and its guests by name."""

    project_name: str
    testbed_guests: dict[str, msgspec.Raw] = {}


def read_built(folder: Path) -> BuiltProject | None:
    """Read what was built in a folder; None when nothing was, or it cannot be read."""
    try:
        return msgspec.json.decode(
            read_regular(folder / "state.json", limit=DOCUMENT_LIMIT), type=BuiltProject
        )
    except (OSError, msgspec.MsgspecError):
        return None


def name_of(folder: Path) -> str:
    """The name of the project in a folder: what it was built as, else that of the folder."""
    built = read_built(folder)
    if built is not None and PROJECT_NAME.fullmatch(built.project_name):
        return built.project_name
    return project_name_from(folder.resolve().name)
