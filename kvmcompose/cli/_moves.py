"""Refuses what an edit would do to guests that it does not name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.core.errors import RefusedError

if TYPE_CHECKING:
    from kvmcompose.build.project import Project
    from kvmcompose.cli._server import Target
    from kvmcompose.core.deployment import Deployment


def refuse_moves(target: Target, project: Project, known: Deployment) -> None:
    """Raise RefusedError where guests that the edit does not name would get another host or address."""
    from kvmcompose.build.project_inputs import YAML_NAME
    from kvmcompose.core.deployment import Phase
    from kvmcompose.core.state import decode_state
    from kvmcompose.pipeline.moves import moves
    from kvmcompose.pipeline.moves_text import moves_text

    if known.state is Phase.DOWN:
        return
    found = moves(decode_state(target.server.state(target.name)), project.compiled)
    if found:
        raise RefusedError(
            moves_text(found, file=project.where.input or YAML_NAME),
            hint="kvm-compose up --allow-moves lets them change",
        )
