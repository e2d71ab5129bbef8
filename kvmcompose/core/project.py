"""What pure code can ask about the files of a project. The build implements the interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from kvmcompose.core.image_source import ImageFile


class FileKind(Enum):
    """The type of a file, after following symbolic links."""

    MISSING = "missing"
    FILE = "file"
    FOLDER = "folder"
    OTHER = "other"
    UNREADABLE = "unreadable"


class Flaw(msgspec.Struct, frozen=True):
    """Why a file or folder cannot be carried into a guest, or a guest cannot start from it.

    ``code`` is that of a problem, ``at`` the keys of the YAML below the one that names the path.
    """

    code: str
    message: str
    hint: str | None = None
    at: tuple[str, ...] = ()


class ProjectFiles(Protocol):
    """Queries about paths as written in the YAML: relative to the project folder, or absolute."""

    def kind(self, path: str) -> FileKind:
        """Return the type of a file, following symbolic links."""

    def is_inside(self, path: str) -> bool:
        """Return whether the path, links resolved, is in the project folder or an allowed folder."""

    def flaws(self, path: str, modes: Mapping[str, str]) -> Sequence[Flaw]:
        """Return why a context, a folder or a file, cannot be carried into a guest.

        ``modes`` are the permission bits of its members in octal digits, by their paths in it.
        """

    def exposed_keys(self, path: str, modes: Mapping[str, str]) -> Sequence[str]:
        """Return the members of a context with a private key that every user of the guest could read."""

    def build_flaws(self, context: str, dockerfile: str) -> Sequence[Flaw]:
        """Return why no image can be built from a folder with this Dockerfile, whose path is one in it."""

    def build_digest(self, context: str, dockerfile: str) -> str:
        """Return the ``content_digest`` of the context of an image, as far as .dockerignore leaves it.

        Raises KvmComposeError for one with flaws.
        """

    def content(self, path: str, limit: int) -> bytes | None:
        """Return the content of a regular file, or None when it cannot be read.

        Of a file of more than ``limit`` bytes, ``limit`` + 1 bytes are returned, so that the caller can tell.
        """

    def image_flaw(self, path: str, wanted_format: str | None, *, is_said: bool) -> Flaw | None:
        """Return why a disk image may not be used, or None.

        ``is_said`` is whether the YAML says the format.
        """

    def image_id(self, source: ImageFile) -> str | Flaw:
        """Return the ID of a container's image that is in a file, or why the file may not be used.

        It is the digest of its configuration, as engines have it: ``sha256:…``.
        """

    def image_arch(self, name: str) -> str | None:
        """Return the architecture of an image, in libvirt's words; None if the catalogue has none of it."""

    def cloud_config_errors(self, data: bytes) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Return which values of a cloud-config the schema of cloud-init does not permit: paths and messages.

        There are none where cloud-init is not installed.
        """

    def image_names(self) -> tuple[str, ...]:
        """Return the names that a ``cloud_image`` may have, sorted."""
