"""Values to bytes: domain XML, network XML, cloud-init seeds, requests for containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import msgspec

from kvmcompose.core.artefact import Rendered
from kvmcompose.render import build_context, container
from kvmcompose.render.inputs import Sources


class Renderer(msgspec.Struct, frozen=True):
    """A way to make the bytes of an artefact out of its recipe.

    ``modules`` are those whose code decides on the bytes: a change of theirs makes artefacts out of date.
    ``writes_time`` tells whether ``Sources.epoch`` goes into them.
    """

    write: Callable[[Rendered, Sources, BinaryIO], None]
    modules: tuple[str, ...]
    writes_time: bool = False


def render(content: Rendered, sources: Sources, out: BinaryIO) -> None:
    """Write the bytes of an artefact to an empty file, which has to be seekable."""
    RENDERERS[content.renderer].write(content, sources, out)


def _xml(content: Rendered, sources: Sources, out: BinaryIO) -> None:
    out.write(sources.templates.xml(content.templates[0], msgspec.to_builtins(content.values)).encode())


def _seed(content: Rendered, sources: Sources, out: BinaryIO) -> None:
    # importing pycdlib takes time, and only a build of seeds needs it
    from kvmcompose.render import seed_image  # noqa: PLC0415

    seed_image.write(content, sources, out)


def _iso(content: Rendered, sources: Sources, out: BinaryIO) -> None:
    from kvmcompose.render import iso_image  # noqa: PLC0415 (see above)

    iso_image.write(content, sources, out)


RENDERERS = {
    "iso": Renderer(_iso, ("kvmcompose.render.iso_image",), writes_time=True),
    "xml": Renderer(_xml, ("kvmcompose.render.templates",)),
    "seed": Renderer(
        _seed,
        (
            "kvmcompose.render.templates",
            "kvmcompose.render.seed_image",
            "kvmcompose.render.cloud_init",
            "kvmcompose.render.iso_image",
            "kvmcompose.render.windows_seed",
            "kvmcompose.render.archive",
            "kvmcompose.core.environment",
            "kvmcompose.core.public_keys",
        ),
        writes_time=True,
    ),
    "container": Renderer(
        container.write_request, ("kvmcompose.render.container", "kvmcompose.core.environment")
    ),
    "resolv-conf": Renderer(container.write_resolvers, ("kvmcompose.render.container",)),
    "container-files": Renderer(
        container.write_files,
        ("kvmcompose.render.container", "kvmcompose.render.archive"),
        writes_time=True,
    ),
    "build-context": Renderer(
        build_context.write_build_context,
        ("kvmcompose.render.build_context", "kvmcompose.render.archive"),
        writes_time=True,
    ),
}
