"""``images.lock``: the digest of each container image that a project takes from a registry by a tag.

The file is a flat YAML mapping with one line for each image, ``REFERENCE: sha256:DIGEST``, sorted: so that
version control merges it line by line. References are as the YAML of the project writes them. Digests are
those of manifests, or of lists of them, as in ``NAME@DIGEST`` (distribution specification, "Pulling
manifests").
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from kvmcompose.core.errors import Location, Problem

LOCK_PATH = "images.lock"
#: The largest lock that is read, in bytes.
LARGEST_LOCK = 1 << 20
_HEAD = "# The content of container images, by tag. Commit this file; 'kvm-compose pull' updates it.\n"
_LINE = re.compile(r"(?P<reference>[^\s#-]\S*): (?P<digest>sha256:[0-9a-f]{64})")
_WANTED = "a line like 'nginx:1.25: sha256:DIGEST', with a digest of 64 hexadecimal digits"
_RENEW = f"correct it, or begin again: rm {LOCK_PATH}; kvm-compose pull"


class ImageLock(msgspec.Struct, frozen=True):
    """The digests by reference, and what is wrong with the file."""

    digests: Mapping[str, str]
    problems: tuple[Problem, ...] = ()


def read_lock(data: bytes) -> ImageLock:
    """Return what a lock says. Of one that is too large, nothing is read."""
    if len(data) > LARGEST_LOCK:
        return ImageLock({}, (_problem(0, f"the file is larger than {LARGEST_LOCK >> 20} MiB"),))
    try:
        text = data.decode("utf-8-sig")  # editors of Windows put a byte-order mark first
    except UnicodeDecodeError as error:
        at = data.count(b"\n", 0, error.start) + 1
        return ImageLock({}, (_problem(at, "this is not UTF-8"),))
    digests: dict[str, str] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), start=1):
        said = line.rstrip()
        if not said or said.startswith("#"):
            continue
        match = _LINE.fullmatch(said)
        if match is None:
            problems.append(_problem(number, "this line names no image and its digest"))
        elif match["reference"] in digests:
            problems.append(_problem(number, f"{match['reference']!r} has a line above already"))
        else:
            digests[match["reference"]] = match["digest"]
    return ImageLock(digests, tuple(problems))


def _problem(line: int, message: str) -> Problem:
    place = Location(LOCK_PATH, line, 1) if line else Location(LOCK_PATH)
    return Problem(code="bad-lock", message=message, location=place, wanted=_WANTED, hint=_RENEW)


def written_lock(digests: Mapping[str, str]) -> bytes:
    """Return the lock as a file."""
    lines = (f"{reference}: {digest}\n" for reference, digest in sorted(digests.items()))
    return (_HEAD + "".join(lines)).encode()


def is_pinned(reference: str) -> bool:
    """Return whether a reference names its content itself: by a digest."""
    return "@" in reference


def pinned(reference: str, digest: str) -> str:
    """Return a reference to that content: ``nginx:1.25`` becomes ``nginx@sha256:…``."""
    return f"{repository(reference)}@{digest}"


def repository(reference: str) -> str:
    """Return a reference without tag and digest: ``localhost:5000/web:1`` becomes ``localhost:5000/web``."""
    name = reference.partition("@")[0]
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"


def digest_among(reference: str, digests: tuple[str, ...], before: str | None = None) -> str | None:
    """Return the digest of an image in those that an engine knows for it, ``REPOSITORY@DIGEST``.

    An image may have several in one repository: of a list of manifests, and of one for this architecture. All
    name the same content here, so that ``before``, the one in the lock, stays where it is among them.
    """
    wanted = _full(repository(reference))
    found = sorted(
        {
            digest
            for name, _, digest in (each.partition("@") for each in digests)
            if _full(name) == wanted and _LINE.fullmatch(f"x: {digest}")
        }
    )
    return before if before in found else next(iter(found), None)


def _full(name: str) -> str:
    """Return the name of a repository with its registry, as Docker completes it."""
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return name if host != "docker.io" or "/" in rest else f"docker.io/library/{rest}"
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"
