"""What renderers read besides the values of a recipe."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvmcompose.render.archive import PackedContext
from kvmcompose.render.templates import Templates


class Sources(msgspec.Struct, frozen=True):
    """What a renderer may see beside its values: templates, files as they were when the digest of them
    was taken, and the one point in time (seconds since 1970) that it may write down.
    """

    templates: Templates
    files: Mapping[str, bytes]
    epoch: int
    context: PackedContext | None = None
