"""The index of the image store: which content each name has. Read without a lock, changed under one.

``index.json`` is replaced as a whole, and then its copy ``index.backup.json``, which is read when the first
is damaged.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.locking import lock
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.images import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_VERSION = 1


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image and its origin. ``virtual_size`` (of the disk) and ``size`` (of the file) in bytes.

    ``checksum`` (``sha512:…``) is the published checksum that the file was verified against,
    ``checksum_from`` its source: the URL of a list, or ``catalogue``; ``signature`` describes whether that
    list was signed, and the signature verified. ``recipe`` is the digest of what an image was built from.
    """

    sha256: catalogue.Sha256
    format: catalogue.ImageFormat
    virtual_size: int
    size: int
    added_by_user: bool = False
    url: str | None = None
    checksum: str | None = None
    checksum_from: str | None = None
    recipe: catalogue.Sha256 | None = None
    signature: str | None = None


class _IndexDocument(msgspec.Struct):
    version: int
    images: dict[str, msgspec.Raw]


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file while the block runs. Without ``wait``, yields False when another process holds it.

    The kernel releases the lock when the process ends, however it ends; the file stays. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            lock(handle, path, wait=False)
        except BlockingIOError:
            if not wait:
                yield False
                return
            log.info("waiting for another process that holds %s", path)
            lock(handle, path)
        yield True
    finally:
        os.close(handle)


def image_lock(root: Path, name: str) -> Path:
    """Return the lock file that is held while the image ``name`` is fetched, built or added."""
    return root / "locks" / f"{name}.lock"


class Index:
    """The index of the store in folder ``root``."""

    def __init__(self, root: Path) -> None:
        self._path = root / "index.json"
        self._backup = root / "index.backup.json"
        self._lock = root / "index.lock"

    def read(self) -> dict[str, ImageFacts]:
        """Return all images by name. Damaged entries are read from the backup, with a warning in the log.

        Raises RefusedError when a newer version wrote the index, KvmComposeError when it cannot be read.
        """
        entries, complaint = self._read(self._path)
        if complaint is None:
            return entries
        saved, backup_complaint = self._read(self._backup)
        if backup_complaint is None and not saved and not self._backup.exists():
            backup_complaint = "it does not exist"
        log.warning(
            "the image index %s is damaged (%s); %s",
            self._path,
            complaint,
            "using its backup instead"
            if backup_complaint is None
            else f"using what can be read of its backup ({backup_complaint}): pull or add what is missing",
        )
        return saved | entries

    @contextlib.contextmanager
    def changing(self) -> Iterator[dict[str, ImageFacts]]:
        """Yield the images by name, to be changed in the block and written at its end. Raises OSError."""
        with locked(self._lock):
            entries = self.read()
            before = dict(entries)
            yield entries
            _, complaint = self._read(self._path)
            if entries == before and complaint is None:
                return
            if complaint is not None:
                self._path.replace(self._path.with_name("index.damaged.json"))
            images = {name: msgspec.to_builtins(entries[name]) for name in sorted(entries)}
            data = msgspec.json.format(msgspec.json.encode({"version": _VERSION, "images": images})) + b"\n"
            write_atomic(self._path, data)
            write_atomic(self._backup, data)

    def _read(self, path: Path) -> tuple[dict[str, ImageFacts], str | None]:
        """Return what can be read of a file, and a description of what cannot."""
        try:
            file = msgspec.json.decode(read_regular(path, limit=DOCUMENT_LIMIT), type=_IndexDocument)
        except FileNotFoundError:
            return {}, None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return {}, str(error)
        except OSError as error:
            raise KvmComposeError(
                f"cannot read the image index {path}: {error.strerror}",
                hint="set KVM_COMPOSE_STORE to a folder that you may read",
            ) from error
        if file.version > _VERSION:
            raise RefusedError(
                f"the image index {path} was written by a newer kvm-compose (version {file.version})",
                hint="upgrade kvm-compose, or set KVM_COMPOSE_STORE to another folder",
            )
        entries: dict[str, ImageFacts] = {}
        complaint = None
        for name, raw in file.images.items():
            try:
                entry = msgspec.json.decode(raw, type=ImageFacts)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                complaint = f"{name}: {error}"
                continue
            if catalogue.is_image_name(name):
                entries[name] = entry
            else:
                complaint = f"{name!r} is not an image name"
        return entries, complaint
