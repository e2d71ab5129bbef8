"""What the guests of another host need of a project: their files, and the images that these lie on.

On the main host everything lies in the project folder; another host is sent what is named here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from kvmcompose.core.deployable import DomainGuest
from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.qcow2 import read_header
from kvmcompose.effects.stat_cache import Remembered, StatCache

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Digests of images, remembered in the project folder.
_REMEMBERED = ".kvm-compose/digests.json"
#: What other hosts were sent, for those who want to know without asking them.
_SENT = ".kvm-compose/sent.json"
_BLOCK = 512


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a host needs. ``path`` is relative to the project folder, ``source`` where it lies here.

    ``shared``: nobody writes to it, so that its content is sent once, whoever needs it. ``disk``: a guest
    writes to it. ``size`` is how much data is in it, in bytes: holes are not counted.
    """

    path: str
    source: Path
    size: int
    shared: bool = False
    disk: bool = False


def parcels(folder: Path, guests: Iterable[DomainGuest]) -> dict[str, Parcel]:
    """What these guests need, by path. Raises KvmComposeError, or OSError when something is not there."""
    found: dict[str, Parcel] = {}
    for guest in guests:
        for path in guest.files:
            if path == guest.domain_xml:  # libvirt is told by the server
                continue
            here = folder / path
            shared = here.is_symlink()  # to an image
            found[path] = _parcel(folder, path, shared=shared, disk=path == guest.disk)
            if path == guest.disk:
                for below in _chain(folder, path):
                    found.setdefault(below, _parcel(folder, below, shared=True))
    return found


def _parcel(folder: Path, path: str, *, shared: bool = False, disk: bool = False) -> Parcel:
    source = (folder / path).resolve()
    status = source.stat()
    size = min(status.st_size, status.st_blocks * _BLOCK)
    return Parcel(path=path, source=source, size=size, shared=shared, disk=disk)


def _chain(folder: Path, disk: str) -> Iterator[str]:
    """The images that a disk lies on; each names the next one as seen from where itself lies."""
    path = disk
    while (backing := read_header(folder / path).backing_file) is not None:
        path = os.path.normpath(os.path.join(os.path.dirname(path), backing))  # noqa: PTH118, PTH120
        yield path


class Digests:
    """The SHA-256 of files that may be large. Those of a project's images are remembered in it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _REMEMBERED
        try:
            known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Remembered])
        except (OSError, msgspec.MsgspecError):
            known = {}
        self._known = known
        self._cache = StatCache(known.items())

    def of(self, source: Path) -> str:
        """The digest of a file's content. An image of the store is called by it. Raises OSError."""
        if _DIGEST.fullmatch(source.name):
            return source.name
        return self._cache.digest(source)

    def look_again(self) -> None:
        """Files may have changed since."""
        self._cache.forget_run()

    def keep(self) -> None:
        """Remember what was found out."""
        if self._cache.fresh:
            self._known |= self._cache.fresh
            write_atomic(self._path, msgspec.json.encode(self._known))


def note_sent(folder: Path, host: str, digests: Iterable[str]) -> None:
    """Note that a host has these contents. Raises OSError."""
    noted = sent(folder) | {host: sorted(set(digests))}
    write_atomic(folder / _SENT, msgspec.json.encode(noted, order="deterministic"))


def sent(folder: Path) -> dict[str, list[str]]:
    """The contents that hosts had when they were last looked at; nothing when that cannot be read."""
    try:
        return msgspec.json.decode((folder / _SENT).read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.MsgspecError):
        return {}
