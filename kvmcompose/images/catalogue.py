"""The image catalogue: the disk images that have a name, and how each is fetched and verified.

Published checksum lists have one of two formats: GNU coreutils (``<hex>  name`` or ``<hex> *name``) or BSD
(``SHA512 (name) = <hex>``).
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

ImageFormat = Literal["qcow2", "raw"]
ChecksumAlgorithm = Literal["md5", "sha1", "sha256", "sha384", "sha512"]

#: Lower case, so that names are distinct on every file system; no leading dot or dash, because names
#: become file names and command line arguments.
NAME_PATTERN = "[a-z0-9][a-z0-9_.-]*"
SHA256_PATTERN = "[0-9a-f]{64}"

ImageName = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$", max_length=128)]
Sha256 = Annotated[str, msgspec.Meta(pattern=f"^{SHA256_PATTERN}$")]

_ALGORITHM_BY_DIGITS: dict[int, ChecksumAlgorithm] = {
    32: "md5",
    40: "sha1",
    64: "sha256",
    96: "sha384",
    128: "sha512",
}
_STRENGTH: dict[ChecksumAlgorithm, int] = {
    algorithm: digits for digits, algorithm in _ALGORITHM_BY_DIGITS.items()
}
_GNU_LINE = re.compile(r"(?P<digest>[0-9A-Fa-f]+) [ *](?P<name>.+)")
_BSD_LINE = re.compile(r"(?P<algorithm>[A-Za-z0-9-]+) ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9A-Fa-f]+)")


class Checksum(msgspec.Struct, frozen=True):
    """The digest that a file's content must have, in lower case hexadecimal."""

    algorithm: ChecksumAlgorithm
    digest: str

    def __str__(self) -> str:
        """Return the form used in the store's index: ``sha512:…``."""
        return f"{self.algorithm}:{self.digest}"


class Signing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The detached signature of a checksum list, by URL, and the keyring to verify it with.

    ``keyring`` is the path of a file in the Debian package ``package``.
    """

    url: str
    keyring: str
    package: str


class CatalogueImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image that can be fetched.

    ``checksums_url`` is its publisher's checksum list, with digests by ``checksum_algorithm``. ``sha256`` is
    only set if the content of ``url`` never changes; the list is then not read. ``signing`` is None if the
    list is not signed. ``note`` is for users.
    """

    name: ImageName
    title: str
    url: str
    format: ImageFormat
    checksums_url: str
    checksum_algorithm: ChecksumAlgorithm
    sha256: Sha256 | None = None
    note: str = ""
    signing: Signing | None = None
    arch: str = "x86_64"

    @property
    def file_name(self) -> str:
        """The last part of the URL: the file's name in checksum lists."""
        return urlsplit(self.url).path.rpartition("/")[2]


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image that is not published but built on this machine."""

    name: ImageName
    title: str
    arch: str = "x86_64"

    @property
    def command(self) -> str:
        """The command that builds it."""
        return f"kvm-compose cloud-images build {self.name}"


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All images that have a name: those that are fetched, and those that are built."""

    images: tuple[CatalogueImage, ...]
    built: tuple[BuiltImage, ...] = ()

    def find(self, name: str) -> CatalogueImage | None:
        """Return the image of that name that can be fetched, or None."""
        return next((image for image in self.images if image.name == name), None)

    def find_built(self, name: str) -> BuiltImage | None:
        """Return the image of that name that can be built, or None."""
        return next((image for image in self.built if image.name == name), None)

    def archs(self) -> dict[str, str]:
        """Return the architectures of the images, in libvirt's words, by name."""
        built = {image.name: image.arch for image in self.built}
        return {image.name: image.arch for image in self.images} | built

    def names(self) -> tuple[str, ...]:
        """Return the names of all images, in the catalogue's order."""
        return (*(image.name for image in self.images), *(image.name for image in self.built))


def parse_catalogue(data: bytes) -> Catalogue:
    """Parse a catalogue (JSON). Raises KvmComposeError when it is invalid."""
    try:
        catalogue = msgspec.json.decode(data, type=Catalogue)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KvmComposeError(f"the image catalogue cannot be read: {error}") from error
    names = catalogue.names()
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise KvmComposeError(f"the image catalogue has more than one image named {', '.join(doubles)}")
    return catalogue


def is_image_name(name: str) -> bool:
    """Return whether ``name`` is valid for an image."""
    return len(name) <= 128 and re.fullmatch(NAME_PATTERN, name) is not None  # noqa: PLR2004


def near_names(wanted: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known names that a mistyped name may mean, the nearest first."""
    folded = re.sub(r"[ .-]", "_", wanted.lower())
    return tuple(difflib.get_close_matches(folded, sorted(set(known)), n=3, cutoff=0.5))


def parse_checksums(text: str) -> dict[str, Checksum]:
    """Parse a published checksum list to file name -> its strongest checksum.

    Ignores lines in neither format (comments, signatures), and digests whose length fits no algorithm or not
    the one that the line names.
    """
    found: dict[str, Checksum] = {}
    for line in text.splitlines():
        match = _BSD_LINE.fullmatch(line.strip()) or _GNU_LINE.fullmatch(line.strip())
        if match is None:
            continue
        digest = match["digest"].lower()
        algorithm = _ALGORITHM_BY_DIGITS.get(len(digest))
        named = match.groupdict().get("algorithm")
        if algorithm is None or (named is not None and named.lower().replace("-", "") != algorithm):
            continue
        name = match["name"].removeprefix("./")
        before = found.get(name)
        if before is None or _STRENGTH[before.algorithm] < _STRENGTH[algorithm]:
            found[name] = Checksum(algorithm, digest)
    return found


def pick_checksum(image: CatalogueImage, text: str) -> Checksum:
    """Return the checksum of an image in a published list.

    Raises KvmComposeError when there is none, or only a weaker one than the catalogue requires: a list must
    not be able to weaken the verification.
    """
    checksum = parse_checksums(text).get(image.file_name)
    if checksum is None:
        raise KvmComposeError(
            f"{image.checksums_url} lists no checksum of {image.file_name}",
            hint="its publisher may have moved the image; download it by hand, then "
            f"kvm-compose cloud-images add {image.name} FILE",
        )
    if _STRENGTH[checksum.algorithm] < _STRENGTH[image.checksum_algorithm]:
        raise KvmComposeError(
            f"{image.checksums_url} has only a {checksum.algorithm} checksum of {image.file_name}, "
            f"the catalogue requires {image.checksum_algorithm}"
        )
    return checksum


def mirrored(url: str, mirror: str | None) -> str:
    """Return where a mirror has a URL: ``https://host/path`` is at ``<mirror>/host/path``."""
    if not mirror:
        return url
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"


def unknown_image(name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that no image has, with similar names."""
    near = near_names(name, known)
    return InputError(
        [
            Problem(
                code="unknown-image",
                message=f"there is no image named {name!r}",
                location=Location("command line"),
                hint=f"did you mean {' or '.join(near)}?" if near else "kvm-compose cloud-images lists all",
            )
        ]
    )
