"""Artefacts as values: a path, and a recipe that says everything its bytes are made of.

Pure code decides what an artefact is made of; ``kvmcompose.build`` makes it. The recipe is what the
digest is taken of and what ``why`` shows, and makers see nothing else, so the three cannot drift.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec


class Policy(Enum):
    """What a build may do with a file that is already there."""

    #: Text that the user may edit by hand: an edit is never lost silently.
    TEXT = "text"
    #: Binary and reproducible: put right whenever it differs.
    REPRODUCIBLE = "reproducible"
    #: A disk that its guest writes to: kept once the guest has run.
    MUTABLE = "mutable"
    #: A link to a file that is not ours.
    LINK = "link"


class Rendered(msgspec.Struct, frozen=True):
    """Bytes computed in memory by the renderer of that name in ``kvmcompose.render``.

    ``files`` are the files and folders whose content goes in, by the name the renderer knows them by.
    """

    renderer: str
    values: Any
    templates: tuple[str, ...] = ()
    files: dict[str, str] = {}


class Literal(msgspec.Struct, frozen=True):
    """Bytes that are there already: ``state.json``, which everything else is made from."""

    data: bytes


class BaseImage(msgspec.Struct, frozen=True):
    """A disk image that is not ours: of the catalogue by name, or a file by path (as written).

    ``format`` is ``qcow2`` or ``raw``; None means that its first bytes tell.
    """

    name: str | None = None
    path: str | None = None
    format: str | None = None


class LinkTo(msgspec.Struct, frozen=True):
    """A symbolic link below ``artefacts/`` to a file that is not ours."""

    image: BaseImage


class Overlay(msgspec.Struct, frozen=True):
    """A qcow2 overlay: on an image that is not ours, or on another artefact (``on``).

    ``expand_gigabytes`` (GiB) is added to the size of what it lies on.
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


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """One file to be made.

    ``path`` is relative to the project folder, ``mode`` its permission bits; ``after`` are the paths of
    artefacts that must be there first.
    """

    task: str
    path: str
    policy: Policy
    content: Content
    summary: str
    guest: str | None = None
    after: tuple[str, ...] = ()
    mode: int = 0o644
