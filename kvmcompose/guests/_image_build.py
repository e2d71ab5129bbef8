"""The ``build`` of a container: an image that is built from a folder of the project."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from kvmcompose.core.errors import Complaint
from kvmcompose.core.image_build import ImageBuild
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.project import ProjectFiles
from kvmcompose.guests import _files

_Path = tuple[str | int, ...]

#: The largest Dockerfile, in bytes.
_LARGEST_DOCKERFILE = 1 << 20
#: The end of a line that goes on: with a backslash, or what ``# escape=`` names, of which there is one other.
_CONTINUED = re.compile(r"[\\`][ \t\r]*\n")
_NETWORK = re.compile(r"^\s*(?:onbuild\s+)*run\s(?:\s*--\S+)*?\s*--network", re.IGNORECASE | re.MULTILINE)


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
    elif flaws := files.build_flaws(build.context, build.dockerfile):
        for flaw in flaws:
            yield Complaint(code=flaw.code, path=at, message=flaw.message, hint=flaw.hint)
    else:
        yield from _of_networks(build, at_dockerfile, files)


def _of_networks(build: ImageBuild, at: _Path, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield that a command has a network of its own: Podman since 4.5 connects it, whatever is asked for."""
    path = posixpath.join(build.context, build.dockerfile)
    data = files.content(path, _LARGEST_DOCKERFILE)
    if data is None or len(data) > _LARGEST_DOCKERFILE:
        yield Complaint(
            code="bad-file",
            path=at,
            message=f"{path!r} cannot be read, or is larger than {_LARGEST_DOCKERFILE >> 20} MiB",
        )
    elif _has_network(data.decode(errors="replace")):
        yield Complaint(
            code="bad-value",
            path=at,
            message=f"{path!r} has RUN --network, which would be another network than the YAML says",
            hint="write it in the YAML, for all commands: build: {context: FOLDER, network: default}",
        )


def _has_network(dockerfile: str) -> bool:
    """Return whether a command of a Dockerfile has a network, wherever its lines are continued."""
    lines = [line for line in dockerfile.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    return _NETWORK.search(_CONTINUED.sub("", "\n".join(lines))) is not None


def privilege(build: ImageBuild) -> Privilege:
    """Return what the build does on its host. It is asked for once, not for each edit of the folder."""
    network = "without a network" if build.network == "none" else "with the engine's network"
    path = posixpath.normpath(posixpath.join(build.context, build.dockerfile))
    return Privilege(PrivilegeKind.BUILD, f"{path!r}, {network}", build.archive)
