"""Reads from a project folder what was built there, and the name of its deployment."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvmcompose.core.names import PROJECT_NAME, project_name_from
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular


class BuiltProject(msgspec.Struct):
    """The part of ``state.json`` that names the project and its guests."""

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
    """Return the name of the project in a folder: the name that was built, else that of the folder."""
    built = read_built(folder)
    if built is not None and PROJECT_NAME.fullmatch(built.project_name):
        return built.project_name
    return project_name_from(folder.resolve().name)
