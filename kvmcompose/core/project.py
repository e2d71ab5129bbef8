"""What pure code can ask about the files of a project. The build implements the interface."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class FileKind(Enum):
    """The type of a file, after following symbolic links."""

    MISSING = "missing"
    FILE = "file"
    FOLDER = "folder"
    OTHER = "other"
    UNREADABLE = "unreadable"


class ProjectFiles(Protocol):
    """Queries about paths as written in the YAML: relative to the project folder, or absolute."""

    def kind(self, path: str) -> FileKind:
        """Return the type of a file, following symbolic links."""

    def is_inside(self, path: str) -> bool:
        """Return whether the path, links resolved, is in the project folder or an allowed folder."""

    def strays(self, path: str) -> str | None:
        """Return the first path below a folder that is a link to a place outside it, or None."""

    def content(self, path: str, limit: int) -> bytes | None:
        """Return the content of a regular file, or None when it cannot be read.

        Of a file of more than ``limit`` bytes, ``limit`` + 1 bytes are returned, so that the caller can tell.
        """

    def image_problem(self, path: str, wanted_format: str | None) -> str | None:
        """Return why a disk image may not be used, or None."""

    def image_names(self) -> tuple[str, ...]:
        """Return the names that a ``cloud_image`` may have: of the catalogue, and added by the user."""
