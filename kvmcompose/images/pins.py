"""Which content each image of the catalogue had when it was first fetched: another one needs the user's word.

``noted.json`` in the store, by the image's name and its publisher's URL, so it holds for mirrors, too, and
outlives the image. Written under the lock of the store's index.
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


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an image, the checksum that its publisher gave, and the day (UTC) of the note."""

    sha256: str
    checksum: str | None
    day: str | None


class _File(msgspec.Struct):
    version: int
    images: dict[str, Note]


class NotedImages:
    """The notes of the store in folder ``root``."""

    def __init__(self, root: Path) -> None:
        self._path = root / "noted.json"

    def read(self) -> dict[str, Note]:
        """All notes. Raises KvmComposeError when they cannot be read: to go on would accept anything."""
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
            raise KvmComposeError(
                f"cannot read which images were fetched before, {self._path}: {error}",
                hint=f"to note all images again when they are next fetched: rm {self._path}",
            ) from error
        if file.version > _VERSION:
            raise RefusedError(f"{self._path} was written by a newer kvm-compose (version {file.version})")
        return file.images

    def find(self, name: str, url: str) -> Note | None:
        """What was noted of an image, if anything."""
        return self.read().get(_key(name, url))

    def note(self, name: str, url: str, sha256: str, checksum: str | None) -> None:
        """Note the content of an image, unless it is what was noted. Raises OSError."""
        notes = self.read()
        before = notes.get(_key(name, url))
        if before is not None and before.sha256 == sha256 and before.checksum == checksum:
            return
        same = before is not None and before.sha256 == sha256
        day = before.day if same and before is not None else datetime.now(UTC).date().isoformat()
        notes[_key(name, url)] = Note(sha256=sha256, checksum=checksum, day=day)
        file = _File(_VERSION, dict(sorted(notes.items())))
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(file)) + b"\n")


def _key(name: str, url: str) -> str:
    return f"{name} {url}"


def refuse_other(image: CatalogueImage, note: Note | None, found: Checksum) -> None:
    """Raise RefusedError when an image is known to be another than the one noted."""
    if note is None:
        return
    before = f"sha256:{note.sha256}"
    if str(found) in (before, note.checksum):
        return
    algorithm = (note.checksum or "").partition(":")[0]
    if found.algorithm not in ("sha256", algorithm):
        return  # cannot be compared before it is here
    shown = note.checksum if found.algorithm == algorithm and found.algorithm != "sha256" else before
    day = f" on {note.day}" if note.day else ""
    raise RefusedError(
        f"the image {image.name!r} is not the one that was fetched here before: it was {shown} (noted{day}), "
        f"{image.url} now is {found} ({datetime.now(UTC).date().isoformat()})",
        hint="publishers replace images by newer ones; to take this one: "
        f"kvm-compose cloud-images pull --accept {image.name}",
    )
