"""The context of an image: the body of ``POST /build`` (format: POSIX ustar/pax; Docker Engine API, v1.41).

It can be used by hand as well: ``docker build -f DOCKERFILE - < artefacts/build-….tar``.
"""

from __future__ import annotations

import posixpath
import tarfile
from typing import BinaryIO

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.image_build import ImageBuild
from kvmcompose.render.archive import end
from kvmcompose.render.inputs import Sources

#: The name by which the renderer knows the context. Its members have it before their paths.
BUILD_CONTEXT = "build-context"
#: Where ``archive.pack_context`` puts the members of a context.
_PACKED = "context/"
_CHUNK = 1 << 20


class BuildValues(msgspec.Struct, frozen=True):
    """The path of the Dockerfile in the context, which .dockerignore does not leave out."""

    dockerfile: str


def write_build_context(_content: Rendered, sources: Sources, out: BinaryIO) -> None:
    """Write the context with its members at the top."""
    assert sources.context is not None  # noqa: S101 (every image has one)
    with sources.context.open() as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
        for member in archive:
            if not member.name.startswith(_PACKED):
                continue
            member.name = member.name.removeprefix(_PACKED)
            member.pax_headers = {}
            out.write(member.tobuf(tarfile.PAX_FORMAT, tarfile.ENCODING, "surrogateescape"))
            file = archive.extractfile(member) if member.isfile() else None
            while file is not None and (data := file.read(_CHUNK)):
                out.write(data)
            out.write(bytes(-member.size % tarfile.BLOCKSIZE))
            archive.members = []  # type: ignore[attr-defined] # it would keep all of them
    out.write(end(out.tell()))


def build_context(build: ImageBuild) -> Artefact:
    """Return the context of an image. Guests that are built from the same folder share it."""
    folder, dockerfile = posixpath.normpath(build.context), posixpath.normpath(build.dockerfile)
    return Artefact(
        task=f"build:{build.archive.removeprefix('artefacts/build-').removesuffix('.tar')}",
        path=build.archive,
        policy=Policy.REPRODUCIBLE,
        content=Rendered("build-context", BuildValues(dockerfile), files={BUILD_CONTEXT: folder}),
        summary=f"what an image is built from: {folder}",
        mode=0o600,
    )
