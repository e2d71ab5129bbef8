"""The project folder as pure code sees it: questions about files, answered elsewhere."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class FileKind(Enum):
    """What a path leads to once symbolic links are followed."""

    MISSING = "missing"
    FILE = "file"
    FOLDER = "folder"
    OTHER = "other"
    UNREADABLE = "unreadable"


class ProjectFiles(Protocol):
    """Answers about paths as they stand in the YAML: relative to the project folder, or absolute."""

    def kind(self, path: str) -> FileKind:
        """What the path leads to."""

    def is_inside(self, path: str) -> bool:
        """Whether the path, links resolved, lies in the project folder or an allowed folder."""

    def strays(self, path: str) -> str | None:
        """The first path below a folder that leads out of it by a link, or None."""

    def content(self, path: str, limit: int) -> bytes | None:
        """The content of a regular file, at most ``limit`` bytes and one; None when it cannot be read."""

    def image_problem(self, path: str, wanted_format: str | None) -> str | None:
        """Why a disk image may not be used, or None."""

    def image_names(self) -> tuple[str, ...]:
        """The names that a ``cloud_image`` may have: of the catalogue, and added by the user."""
