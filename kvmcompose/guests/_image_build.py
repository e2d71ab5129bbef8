"""The ``build`` of a container: an image that is built from a folder of the project."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from kvmcompose.core.errors import Complaint
from kvmcompose.core.image_build import ImageBuild
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.project import ProjectFiles
from kvmcompose.guests import _files

_Path = tuple[str | int, ...]


def in_full(build: str | ImageBuild | None) -> ImageBuild | None:
    """Return what a ``build`` says: a text is the folder."""
    return ImageBuild(build) if isinstance(build, str) else build


def digest(build: ImageBuild | None, files: ProjectFiles) -> str | None:
    """Return the digest of a build's context, None for one that ``check`` complains about."""
    if build is None or any(_of_context(build, (), (), files)):
        return None
    return files.build_digest(build.context, build.dockerfile)


def check(given: str | ImageBuild, at: _Path, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of a build, which the key at the path ``at`` names."""
    build = in_full(given)
    assert build is not None  # noqa: S101 (it is given)
    at_context = at if isinstance(given, str) else (*at, "context")
    at_dockerfile = at if isinstance(given, str) else (*at, "dockerfile")
    yield from _of_context(build, at_context, at_dockerfile, files)


def _of_context(
    build: ImageBuild, at: _Path, at_dockerfile: _Path, files: ProjectFiles
) -> Iterator[Complaint]:
    dockerfile = posixpath.normpath(build.dockerfile)
    if dockerfile.startswith("/") or dockerfile.split("/")[0] in ("..", "."):
        yield Complaint(
            code="bad-value",
            path=at_dockerfile,
            message="the Dockerfile is not in the context",
            found=repr(build.dockerfile),
            wanted="a path relative to the context, without '..'",
        )
    elif wrong := [*_files.folder(files, at, build.context)]:
        yield from wrong
    else:
        for flaw in files.build_flaws(build.context, build.dockerfile):
            yield Complaint(code=flaw.code, path=at, message=flaw.message, hint=flaw.hint)


def privilege(build: ImageBuild) -> Privilege:
    """Return what the build does on its host. It is asked for once, not for each edit of the folder."""
    network = "without a network" if build.network == "none" else "with the engine's network"
    path = posixpath.normpath(posixpath.join(build.context, build.dockerfile))
    return Privilege(PrivilegeKind.BUILD, f"{path!r}, {network}", build.archive)
