"""Reads from a project folder what was built there, and the name of its deployment."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError
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


def segments_of(folder: Path) -> list[str]:
    """Return the bridges or logical switches of what was built in a folder, as far as it can be read."""
    from kvmcompose.core.state import decode_state  # noqa: PLC0415 (only a shell's completion needs them)
    from kvmcompose.networks import dialect, logical_targets  # noqa: PLC0415

    try:
        state = decode_state(read_regular(folder / "state.json", limit=DOCUMENT_LIMIT))
        bridges = dialect(state.network["dialect"]).network_plan(state).bridges
        switches = [each.switch for each in logical_targets(state).values() if each.port is None]
    except (OSError, LookupError, ValueError, StopIteration, msgspec.MsgspecError, KvmComposeError):
        return []
    return [*(each.segment for each in bridges), *dict.fromkeys(switches)]


def name_of(folder: Path) -> str:
    """Return the name of the project in a folder: the name that was built, else that of the folder."""
    built = read_built(folder)
    if built is not None and PROJECT_NAME.fullmatch(built.project_name):
        return built.project_name
    return project_name_from(folder.resolve().name)
