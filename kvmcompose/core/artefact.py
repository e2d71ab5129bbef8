"""Artefacts as values: a path, and a recipe that contains everything that determines the bytes.

Pure code decides what an artefact is made from; ``kvmcompose.build`` makes it. The digest is taken of the
recipe, ``why`` shows the recipe, and makers see only the recipe, so the three cannot disagree.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

_SHARED_DISK = ("artefacts/shared.", ".raw")


def shared_disk_path(name: str) -> str:
    """Return the path of a disk that guests share. Whatever opens the file takes it as raw."""
    return name.join(_SHARED_DISK)


def shared_disk_name(path: str) -> str:
    """Return the name of the disk that guests share in this file."""
    start, end = _SHARED_DISK
    return path.removeprefix(start).removesuffix(end)


def is_shared_disk(path: str) -> bool:
    """Return whether a path relative to the project folder is that of a disk that guests share."""
    start, end = _SHARED_DISK
    return path.startswith(start) and path.endswith(end) and path.count("/") == 1


class Policy(Enum):
    """What a build may do with a file that already exists."""

    #: Text that the user may edit by hand: an edit is never lost silently.
    TEXT = "text"
    #: Binary and reproducible: replaced whenever it differs.
    REPRODUCIBLE = "reproducible"
    #: A disk that its guest writes to: kept once the guest has run.
    MUTABLE = "mutable"
    #: A link to a file that kvmcompose does not own.
    LINK = "link"


class Rendered(msgspec.Struct, frozen=True):
    """Bytes computed in memory by the renderer of that name in ``kvmcompose.render``.

    ``files`` are the paths of the files and folders whose content it includes, by the renderer's name for
    them.
    """

    renderer: str
    values: Any
    templates: tuple[str, ...] = ()
    files: dict[str, str] = {}


class Literal(msgspec.Struct, frozen=True):
    """Bytes that are already computed: ``state.json``, from which everything else is made.

    Of what a guest writes to: what it begins with.
    """

    data: bytes


class BaseImage(msgspec.Struct, frozen=True):
    """A disk image that kvmcompose does not own: of the catalogue by name, or a file by path (as written).

    ``format`` is ``qcow2`` or ``raw``; None means that the format is detected from the first bytes.
    """

    name: str | None = None
    path: str | None = None
    format: str | None = None


class LinkTo(msgspec.Struct, frozen=True):
    """A symbolic link below ``artefacts/`` to a file that kvmcompose does not own."""

    image: BaseImage


class Overlay(msgspec.Struct, frozen=True):
    """A qcow2 overlay. Its backing file is an ``image``, or another artefact (the path ``on``).

    ``expand_gigabytes`` (GiB) is added to the size of the backing file.
    """

    image: BaseImage | None = None
    on: str | None = None
    expand_gigabytes: int = 0


class DeepCopy(msgspec.Struct, frozen=True):
    """A full copy of an image as qcow2."""

    image: BaseImage


class Blank(msgspec.Struct, frozen=True):
    """An empty qcow2 disk of ``gigabytes`` GiB."""

    gigabytes: int


Content = Rendered | Literal | LinkTo | Overlay | DeepCopy | Blank
#: Those that are qcow2 images.
IMAGES = (Overlay, DeepCopy, Blank)


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """One file to be made.

    ``path`` is relative to the project folder, ``mode`` its permission bits. ``after`` are the paths of the
    artefacts that must be made before this one.
    """

    task: str
    path: str
    policy: Policy
    content: Content
    summary: str
    guest: str | None = None
    after: tuple[str, ...] = ()
    mode: int = 0o644
