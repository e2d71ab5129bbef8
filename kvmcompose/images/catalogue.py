"""The image catalogue: which disk images can be had by name, and how each one is checked.

Also the reading of published checksum lists, which name a file and its digest in one of two forms:
GNU coreutils (``<hex>  name`` or ``<hex> *name``) and BSD (``SHA512 (name) = <hex>``).
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

#: Lower case, so that names are the same on every file system; no leading dot or dash, because names
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
    """What a file's content must digest to; ``digest`` in lower case hexadecimal."""

    algorithm: ChecksumAlgorithm
    digest: str

    def __str__(self) -> str:
        """As the store's index has it: ``sha512:…``."""
        return f"{self.algorithm}:{self.digest}"


class Signing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a publisher signs its checksum list: where the detached signature is, and the keyring to check it
    with, a file of the Debian package ``package``.
    """

    url: str
    keyring: str
    package: str


class CatalogueImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image that can be fetched by name.

    ``checksums_url`` is where its publisher lists checksums and ``checksum_algorithm`` what that list
    holds. ``sha256`` is set only where ``url`` never changes its content; it then counts alone, and the
    list is not asked. ``signing`` says how the list is signed; without it, it is not. ``note`` is for people.
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

    @property
    def file_name(self) -> str:
        """The last part of the URL: the name under which checksum lists have the file."""
        return urlsplit(self.url).path.rpartition("/")[2]


class BuiltImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image that is built on this machine: nobody publishes it."""

    name: ImageName
    title: str

    @property
    def command(self) -> str:
        """What a user types to have it."""
        return f"kvm-compose cloud-images build {self.name}"


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All images that are known by name: those that are fetched, and those that are built."""

    images: tuple[CatalogueImage, ...]
    built: tuple[BuiltImage, ...] = ()

    def find(self, name: str) -> CatalogueImage | None:
        """The image of that name that can be fetched, or None."""
        return next((image for image in self.images if image.name == name), None)

    def find_built(self, name: str) -> BuiltImage | None:
        """The image of that name that can be built, or None."""
        return next((image for image in self.built if image.name == name), None)

    def names(self) -> tuple[str, ...]:
        """The names of all images, in the catalogue's order."""
        return (*(image.name for image in self.images), *(image.name for image in self.built))


def parse_catalogue(data: bytes) -> Catalogue:
    """Read a catalogue from JSON. Raises KvmComposeError when it is not one."""
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
    """Whether an image may have this name."""
    return len(name) <= 128 and re.fullmatch(NAME_PATTERN, name) is not None  # noqa: PLR2004


def near_names(wanted: str, known: Iterable[str]) -> tuple[str, ...]:
    """Those of the known names that a mistyped one may have meant, the nearest first."""
    folded = re.sub(r"[ .-]", "_", wanted.lower())
    return tuple(difflib.get_close_matches(folded, sorted(set(known)), n=3, cutoff=0.5))


def parse_checksums(text: str) -> dict[str, Checksum]:
    """A published checksum list as file name -> strongest checksum listed for it.

    Lines of neither form (comments, signatures) are passed over, and so are digests whose length fits
    no algorithm, or not the one that the line names.
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
    """What a published list says of an image.

    Raises KvmComposeError when it says nothing, or only something weaker than the catalogue promises:
    a list must not be able to talk the check down.
    """
    checksum = parse_checksums(text).get(image.file_name)
    if checksum is None:
        raise KvmComposeError(
            f"{image.checksums_url} lists no checksum of {image.file_name}",
            hint="its publisher may have moved the image; get it by hand, then "
            f"kvm-compose cloud-images add {image.name} FILE",
        )
    if _STRENGTH[checksum.algorithm] < _STRENGTH[image.checksum_algorithm]:
        raise KvmComposeError(
            f"{image.checksums_url} has only a {checksum.algorithm} checksum of {image.file_name}, "
            f"the catalogue wants {image.checksum_algorithm}"
        )
    return checksum


def mirrored(url: str, mirror: str | None) -> str:
    """Where a mirror has a URL: ``https://host/path`` is at ``<mirror>/host/path``."""
    if not mirror:
        return url
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"


def unknown_image(name: str, known: Iterable[str], *, location: Location | None = None) -> InputError:
    """The error for a name that no image has, with the near ones."""
    near = near_names(name, known)
    return InputError(
        [
            Problem(
                code="unknown-image",
                message=f"there is no image named {name!r}",
                location=location or Location("command line"),
                hint=f"did you mean {' or '.join(near)}?" if near else "kvm-compose cloud-images lists all",
            )
        ]
    )
