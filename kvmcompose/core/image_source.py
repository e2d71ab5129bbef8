"""Where the image of a container is from: as the YAML writes it."""

from __future__ import annotations

import re
from typing import Literal, cast

import msgspec

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
#: References (distribution specification, "Pulling manifests"; Docker's package ``reference``).
_REFERENCE = re.compile(
    rf"(?:{_DOMAIN}(?::[0-9]+)?/)?(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
#: What the names of images that kvm-compose makes begin with.
OURS = "kvm-compose-"
#: IDs of images, whole or shortened.
_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
_Transport = Literal["docker-archive", "oci-archive", "oci"]
#: Names of files (containers-transports(5)). The first would be an image of that name, with a tag.
_FILE = re.compile(
    r"(?P<transport>docker-archive|oci-archive|oci):(?P<path>[^:]*)(?::(?P<name>.*))?", re.DOTALL
)
#: The longest name of a repository, without its registry, in characters (Docker's package ``reference``).
_LONGEST_NAME = 255


class ImageFile(msgspec.Struct, frozen=True):
    """An image in a file: an archive of ``docker save``, one of an OCI image layout, or such a folder.

    ``path`` is as in the YAML. ``name`` is which of several images it is: its reference in an archive of
    Docker's, its tag in a layout (``org.opencontainers.image.ref.name``).
    """

    transport: _Transport
    path: str
    name: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.transport == "oci"

    def __str__(self) -> str:
        """Return it as the YAML has it."""
        return f"{self.transport}:{self.path}" + (f":{self.name}" if self.name is not None else "")


def is_reference(image: str) -> bool:
    """Return whether this names an image of a registry."""
    match = None if _FILE.match(image) else _REFERENCE.fullmatch(image)
    return match is not None and len(match["name"]) <= _LONGEST_NAME


def image_file(image: str) -> ImageFile | None:
    """Return the file that this names, None for anything else. Its path ends at a colon."""
    match = _FILE.fullmatch(image)
    if match is None or not match["path"]:
        return None
    return ImageFile(cast("_Transport", match["transport"]), match["path"], match["name"] or None)


def is_ours(reference: str) -> bool:
    """Return whether a reference is the name of an image that kvm-compose makes: no registry has it."""
    for registry in ("docker.io/", "index.docker.io/", "localhost/"):
        reference = reference.removeprefix(registry)
    return reference.startswith(OURS)


def qualified(reference: str) -> str:
    """Return a reference with its registry, as Docker completes one; an ID is left.

    ``nginx`` is ``docker.io/library/nginx``, and an image that kvm-compose makes is of ``localhost``. An
    engine that completes names by registries.conf(5), as Podman does, could find another image.
    """
    if _ID.fullmatch(reference):
        return reference
    if reference.startswith(OURS):
        return f"localhost/{reference}"
    first, slash, rest = reference.partition("/")
    if not slash:
        return f"docker.io/library/{reference}"
    if "." in first or ":" in first or first == "localhost":
        is_short = first in ("docker.io", "index.docker.io") and "/" not in rest
        return f"docker.io/library/{rest}" if is_short else reference
    return f"docker.io/{reference}"
