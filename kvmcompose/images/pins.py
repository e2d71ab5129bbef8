"""Pins: the content of each image of the catalogue when it was fetched. Another content needs consent.

Kept in ``noted.json`` in the store by the image's name and its publisher's URL, so a pin also holds for
mirrors and outlives the image. Written under the lock of the index.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from kvmcompose.images.catalogue import CatalogueImage, Checksum

_VERSION = 1


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an image, the checksum that its publisher gave, and the day (UTC) it was fetched."""

    sha256: str
    checksum: str | None
    day: str | None


class _PinsDocument(msgspec.Struct):
    version: int
    images: dict[str, Pin]


class Pins:
    """The pins of the store in folder ``root``."""

    def __init__(self, root: Path) -> None:
        self._path = root / "noted.json"

    def _read(self) -> dict[str, Pin]:
        """Return all pins. Raises KvmComposeError when they cannot be read: no pin would accept anything."""
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_PinsDocument)
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
            raise KvmComposeError(
                f"cannot read which images were fetched before, {self._path}: {error}",
                hint=f"to accept whatever is fetched next: rm {self._path}",
            ) from error
        if file.version > _VERSION:
            raise RefusedError(f"{self._path} was written by a newer kvm-compose (version {file.version})")
        return file.images

    def find(self, name: str, url: str) -> Pin | None:
        """Return the pin of an image, or None."""
        return self._read().get(_key(name, url))

    def pin(self, name: str, url: str, sha256: str, checksum: str | None) -> None:
        """Pin an image; the day stays while the content is the same. Raises OSError."""
        pins = self._read()
        before = pins.get(_key(name, url))
        same = before is not None and before.sha256 == sha256
        if before is not None and same and before.checksum == checksum:
            return
        day = before.day if before is not None and same else datetime.now(UTC).date().isoformat()
        pins[_key(name, url)] = Pin(sha256=sha256, checksum=checksum, day=day)
        file = _PinsDocument(_VERSION, dict(sorted(pins.items())))
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(file)) + b"\n")


def _key(name: str, url: str) -> str:
    return f"{name} {url}"


def refuse_replaced(image: CatalogueImage, pin: Pin | None, found: Checksum) -> None:
    """Raise RefusedError when a checksum shows that an image is not the pinned one."""
    if pin is None:
        return
    before = f"sha256:{pin.sha256}"
    if str(found) in (before, pin.checksum):
        return
    algorithm = (pin.checksum or "").partition(":")[0]
    if found.algorithm not in ("sha256", algorithm):
        return  # not comparable: the SHA-256 is compared after the download
    shown = pin.checksum if found.algorithm == algorithm and found.algorithm != "sha256" else before
    day = f" on {pin.day}" if pin.day else ""
    raise RefusedError(
        f"the image {image.name!r} is not the one that was fetched here before{day}: it was {shown}, "
        f"{image.url} now is {found} ({datetime.now(UTC).date().isoformat()})",
        hint="publishers replace images by newer ones; to accept this one: "
        f"kvm-compose cloud-images pull --accept {image.name}",
    )
