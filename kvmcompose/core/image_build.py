"""Images that are built from a folder of the project: what they are made of, and what stands for that.

An image is built once for the same content: the *key* is a digest of all that decides on it. Neither the
clock nor the machine is part of it, and of the modes of files only whether they are executable, as in git.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

#: The repository of the images that projects build. A project has the one below that, of its name.
BUILD_REPOSITORY = "kvm-compose-builds"
#: The file of instructions that a context has unless the YAML names another one.
DOCKERFILE = "Dockerfile"
#: Raised when the same inputs make another image: with other parameters of the engine's, for example.
_VERSION = 1
#: The digits of a key, and of what tells contexts of the same name apart.
_DIGITS, _FEW_DIGITS = 32, 8
_NO_NAME = re.compile(r"[^a-z0-9]+")
_LONGEST_NAME = 40


class ImageBuild(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to build an image. Names are those of Compose.

    ``context`` is a folder of the project, ``dockerfile`` a path in it. ``args`` are values of ``ARG``,
    ``target`` the stage to build, None for the last one. ``network`` is that of the commands that it runs:
    ``none``, or the engine's own by ``default``.
    """

    context: str
    dockerfile: str = DOCKERFILE
    args: dict[str, str] = {}
    target: str | None = None
    network: Literal["none", "default"] = "none"

    def __post_init__(self) -> None:
        """Sort the arguments, so that the order of keys in the YAML does not matter."""
        msgspec.structs.force_setattr(self, "args", dict(sorted(self.args.items())))

    @property
    def archive(self) -> str:
        """The artefact with the context: one for all guests that are built from it."""
        path = posixpath.normpath(self.context)
        name = _NO_NAME.sub("-", posixpath.basename(path).lower()).strip("-")[:_LONGEST_NAME]
        place = f"{path}\0{posixpath.normpath(self.dockerfile)}".encode(errors="surrogateescape")
        return f"artefacts/build-{name or 'context'}-{hashlib.sha256(place).hexdigest()[:_FEW_DIGITS]}.tar"


class ContextEntry(msgspec.Struct, frozen=True):
    """A path in a context: a ``file`` with the SHA-256 of its content, a ``folder``, or a ``link``.

    ``content`` is "" for a folder, the target of a link.
    """

    path: str
    kind: Literal["file", "folder", "link"]
    content: str
    executable: bool = False


def content_digest(entries: Iterable[ContextEntry]) -> str:
    """Return the digest of the content of a context, in hexadecimal digits. The order does not matter."""
    found = sorted(f"{each.path}\0{each.kind}\0{each.executable:d}\0{each.content}\n" for each in entries)
    return hashlib.sha256("".join(found).encode(errors="surrogateescape")).hexdigest()


def build_key(build: ImageBuild, digest: str) -> str:
    """Return what stands for the image that is built from a context with this ``content_digest``."""
    made_of = [
        _VERSION, digest, posixpath.normpath(build.dockerfile), build.args, build.target, build.network,
    ]  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(made_of, order="sorted")).hexdigest()[:_DIGITS]


def build_repository(project: str) -> str:
    """Return the repository of the images that a project builds."""
    return f"{BUILD_REPOSITORY}/{project}"


def build_tag(project: str, key: str) -> str:
    """Return the name of an image that a project builds."""
    return f"{build_repository(project)}:{key}"
