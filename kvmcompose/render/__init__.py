"""Values to bytes: domain XML, network XML, cloud-init seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from kvmcompose.core.artefact import Rendered
from kvmcompose.render.templates import Templates


class CarriedFile(msgspec.Struct, frozen=True):
    """A file whose content goes into an artefact. ``path`` is relative to what was named; empty if it
    was the file itself. A symbolic link has a ``link_target`` and no data.
    """

    path: str
    data: bytes
    executable: bool = False
    link_target: str | None = None


class Sources(msgspec.Struct, frozen=True):
    """What a renderer may see beside its values: templates, files as they were when the digest of them
    was taken, and the one point in time (seconds since 1970) that it may write down.
    """

    templates: Templates
    files: Mapping[str, tuple[CarriedFile, ...]]
    epoch: int


class Renderer(Protocol):
    """Makes the bytes of an artefact out of its recipe."""

    def __call__(self, content: Rendered, sources: Sources) -> bytes:
        """The whole file."""


def render(content: Rendered, sources: Sources) -> bytes:
    """The bytes of an artefact."""
    return RENDERERS[content.renderer](content, sources)


def _xml(content: Rendered, sources: Sources) -> bytes:
    return sources.templates.xml(content.templates[0], msgspec.to_builtins(content.values)).encode()


def _seed(content: Rendered, sources: Sources) -> bytes:
    # pycdlib is only needed by those who build a seed
    from kvmcompose.render import seed_image  # noqa: PLC0415

    return seed_image.build(content, sources)


RENDERERS: dict[str, Renderer] = {"xml": _xml, "seed": _seed}
