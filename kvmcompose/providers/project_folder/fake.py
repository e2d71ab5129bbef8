"""Folders of projects on a simulated host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvmcompose.hosts.fake import SimulatedHost


class FakeProjectFolders:
    """See ``ProjectFolders``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def link(self, project: str, folder: Path, before: Path | None = None) -> None:  # noqa: ARG002
        await self._host.call("link_project", project)
        self._host.world.projects[project] = str(folder)
        self._host.keep(("projects", project))

    async def linked(self, project: str, folders: Sequence[Path]) -> Path | None:
        await self._host.call("linked_folder", project)
        linked = self._host.world.projects.get(project)
        return next((folder for folder in folders if str(folder) == linked), None)

    async def unlink(self, project: str, folder: Path) -> None:
        await self._host.call("unlink_project", project)
        if self._host.world.projects.get(project) == str(folder):
            del self._host.world.projects[project]
        self._host.keep(("projects", project))
