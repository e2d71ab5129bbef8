"""Values to bytes: domain XML, network XML, cloud-init seeds."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvmcompose.core.artefact import Rendered
from kvmcompose.render.inputs import Sources


class Renderer(msgspec.Struct, frozen=True):
    """A way to make the bytes of an artefact out of its recipe.

    ``modules`` are those whose code decides on the bytes: a change of theirs makes artefacts out of date.
    ``writes_time`` tells whether ``Sources.epoch`` goes into them.
    """

    build: Callable[[Rendered, Sources], bytes]
    modules: tuple[str, ...]
    writes_time: bool = False


def render(content: Rendered, sources: Sources) -> bytes:
    """The bytes of an artefact."""
    return RENDERERS[content.renderer].build(content, sources)


def _xml(content: Rendered, sources: Sources) -> bytes:
    return sources.templates.xml(content.templates[0], msgspec.to_builtins(content.values)).encode()


def _seed(content: Rendered, sources: Sources) -> bytes:
    # pycdlib takes its time to import, and is only needed by those who build a seed
    from kvmcompose.render import seed_image  # noqa: PLC0415

    return seed_image.build(content, sources)


RENDERERS = {
    "xml": Renderer(_xml, ("kvmcompose.render.templates",)),
    "seed": Renderer(
        _seed,
        ("kvmcompose.render.templates", "kvmcompose.render.seed_image", "kvmcompose.core.environment"),
        writes_time=True,
    ),
}
