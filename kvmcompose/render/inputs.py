"""What renderers read besides the values of a recipe."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvmcompose.render.templates import Templates


class CarriedFile(msgspec.Struct, frozen=True):
    """A file whose content goes into an artefact. ``path`` is relative to what was named, or the
    file's own name. A symbolic link has a ``link_target``, and neither it nor a folder has data.
    """

    path: str
    data: bytes
    executable: bool = False
    link_target: str | None = None
    is_folder: bool = False


class Sources(msgspec.Struct, frozen=True):
    """What a renderer may see beside its values: templates, files as they were when the digest of them
    was taken, and the one point in time (seconds since 1970) that it may write down.
    """

    templates: Templates
    files: Mapping[str, tuple[CarriedFile, ...]]
    epoch: int
