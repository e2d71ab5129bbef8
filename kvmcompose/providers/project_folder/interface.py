"""The folders of projects on one host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class ProjectFolders(Protocol):
    """The folders of projects on one host, which are found by links. Paths are absolute, as on that host."""

    async def link(self, project: str, folder: Path, before: Path | None = None) -> None:
        """Link ``/var/lib/kvm-compose/<project>`` to the folder, and create a folder for consoles in it.

        ``before`` is an earlier folder of the same project, to which the link may still point.
        Raises DriverError when the link points to another project's folder.
        """

    async def linked(self, project: str, folders: Sequence[Path]) -> Path | None:
        """Return which of these folders the project's link leads to; None for no link, or another folder."""

    async def unlink(self, project: str, folder: Path) -> None:
        """Remove that link if it points to the folder."""
