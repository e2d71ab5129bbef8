"""A project folder as it will be when the build has made what is missing or out of date."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path

from kvmcompose.core.planned import FileToMake
from kvmcompose.effects.artefacts import Inspection
from kvmcompose.effects.files import digest_bytes
from kvmcompose.server.orchestrator.project_folder import ProjectFolder


class PlannedFolder(ProjectFolder):
    """``folder`` with ``files`` in place of those that are there now."""

    before_build = True

    def __init__(self, folder: ProjectFolder, files: Mapping[str, FileToMake]) -> None:
        super().__init__(folder.location, folder.work, folder.member)
        self.to_be_made = files

    def read(self, path: str) -> bytes:
        """The content of a file. Raises OSError."""
        made = self.to_be_made.get(path)
        if made is None:
            return super().read(path)
        if made.text is None:
            raise FileNotFoundError(errno.ENOENT, "it is not built yet, and its text was not sent", path)
        return made.text.encode()

    def is_file(self, path: str | Path) -> bool:
        """Whether there will be a regular file that may be read."""
        return str(path) in self.to_be_made or super().is_file(path)

    def inspect(self, paths: Iterable[str]) -> Inspection:
        """Which artefacts will not be there, or are not as a build leaves them. Raises OSError."""
        return super().inspect(path for path in paths if path not in self.to_be_made)

    def digest(self, path: str, handle: int | None = None) -> str:
        """The SHA-256 of a file, or for unknown content a text that equals no digest. Raises OSError."""
        made = self.to_be_made.get(path)
        if made is None:
            return super().digest(path, handle)
        if made.text is not None:
            return digest_bytes(made.text.encode())
        return made.digest or f"to be made: {path}"

    def backing_file(self, path: str) -> str | None:
        """What a disk will lie on. Raises KvmComposeError, or OSError."""
        made = self.to_be_made.get(path)
        return super().backing_file(path) if made is None else made.backing
