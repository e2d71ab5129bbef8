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
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.once import once
from kvmcompose.core.state import State
from kvmcompose.effects import private
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.stat_cache import Remembered, StatCache
from kvmcompose.guests import guest_kind
from kvmcompose.images.qcow2 import HEAD_BYTES, is_pristine, parse_header, read_header

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Digests of images, remembered in the project folder.
_REMEMBERED = ".kvm-compose/digests.json"
#: What other hosts were sent, for those who want to know without asking them.
_SENT = ".kvm-compose/sent.json"
_BLOCK = 512
_LONGEST_CHAIN = 64


class NeededFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a host needs. ``path`` is relative to the project folder, ``source`` where it lies here.

    ``shared``: nobody writes to it, so that its content is sent once, whoever needs it. ``disk``: a guest
    writes to it. ``size`` is how much data is in it, in bytes: holes are not counted.
    """

    path: str
    source: Path
    size: int
    shared: bool = False
    disk: bool = False


def needed_files(
    folder: Path, guests: Iterable[DomainGuest], files: OwnerFiles | None = None
) -> dict[str, NeededFile]:
    """What these guests need, by path; ``files`` reads it with other rights than ours.

    Raises KvmComposeError, or OSError when something is not there.
    """
    found: dict[str, NeededFile] = {}
    for guest in guests:
        for path in guest.files:
            if path == guest.domain_xml:  # libvirt is told by the server
                continue
            # a link leads to an image
            shared = files.see(folder / path).linked if files else (folder / path).is_symlink()
            found[path] = _parcel(folder, path, files, shared=shared, disk=path == guest.disk)
            if path == guest.disk:
                for below in _chain(folder, path, files):
                    found.setdefault(below, _parcel(folder, below, files, shared=True))
    return found


def _parcel(
    folder: Path, path: str, files: OwnerFiles | None, *, shared: bool = False, disk: bool = False
) -> NeededFile:
    if files is not None:
        seen = files.see(folder / path)
        size = min(seen.size, seen.allocated)
        return NeededFile(path=path, source=folder / path, size=size, shared=shared, disk=disk)
    source = (folder / path).resolve()
    status = source.stat()
    size = min(status.st_size, status.st_blocks * _BLOCK)
    return NeededFile(path=path, source=source, size=size, shared=shared, disk=disk)


def _chain(folder: Path, disk: str, files: OwnerFiles | None) -> Iterator[str]:
    """The images that a disk lies on; each names the next one as seen from where itself lies."""
    path = disk
    for _ in range(_LONGEST_CHAIN):
        backing = backing_file(folder / path, files)
        if backing is None:
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), backing))  # noqa: PTH118, PTH120
        yield path
    raise KvmComposeError(f"{disk} has more than {_LONGEST_CHAIN} backing files, one below the other")


def backing_file(path: Path, files: OwnerFiles | None) -> str | None:
    """What a disk lies on, as it names it. Raises KvmComposeError, or OSError."""
    if files is None:
        return read_header(path).backing_file
    try:
        header = parse_header(files.read(path, HEAD_BYTES))
    except ValueError as error:
        raise KvmComposeError(f"{path} is not a sound qcow2 image: {error}") from error
    return header.backing_file if header is not None else None


class Digests:
    """The SHA-256 of files that may be large. Those of a project's images are remembered in it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _REMEMBERED

    @once
    def _known(self) -> dict[str, Remembered]:
        try:
            noted = read_regular(self._path, limit=DOCUMENT_LIMIT, follow=False)
            return msgspec.json.decode(noted, type=dict[str, Remembered])
        except (OSError, msgspec.MsgspecError):
            return {}

    @once
    def _cache(self) -> StatCache:
        return StatCache(self._known.items())

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
            private.write(self._path, msgspec.json.encode(self._known))


class Sent(msgspec.Struct, frozen=True):
    """What a host was sent, when it was last looked at: shared contents, and the project's own by path."""

    contents: frozenset[str] = frozenset()
    files: dict[str, str] = {}


def note_sent(folder: Path, host: str, sent: Sent) -> None:
    """Note it. Raises OSError."""
    noted = read_sent(folder) | {host: sent}
    private.write(folder / _SENT, msgspec.json.encode(noted, order="deterministic"))


def forget_sent(folder: Path, host: str) -> None:
    """Nothing is known any more of what a host has. Raises OSError."""
    noted = read_sent(folder)
    if noted.pop(host, None) is not None:
        private.write(folder / _SENT, msgspec.json.encode(noted, order="deterministic"))


def read_sent(folder: Path) -> dict[str, Sent]:
    """What each host was sent; nothing when that cannot be read."""
    try:
        noted = read_regular(folder / _SENT, limit=DOCUMENT_LIMIT, follow=False)
        return msgspec.json.decode(noted, type=dict[str, Sent])
    except (OSError, msgspec.MsgspecError):
        return {}


class Transfer(msgspec.Struct, frozen=True):
    """What would be sent to a host. ``unmade`` are golden images that are yet to be set up."""

    host: str
    parcels: tuple[NeededFile, ...]
    unmade: tuple[str, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(parcel.size for parcel in self.parcels)


def plan_transfers(folder: Path, state: State) -> list[Transfer]:
    """What ``up`` would send to each host, by what is noted here of earlier times; no host is asked.

    Raises KvmComposeError, or OSError when artefacts are not there.
    """
    runs = {
        name: run
        for name, guest in state.testbed_guests.items()
        if (run := guest_kind(guest.kind).deployable(guest, state.shared)) is not None
    }
    unmade = {
        run.disk
        for name, run in runs.items()
        if state.testbed_guests[name].is_golden_image and run.setup_scripts and run.disk is not None
        if is_pristine(folder / run.disk)
    }
    digests, noted = Digests(folder), read_sent(folder)
    found = []
    for host in state.testbed_hosts.values():
        if host.is_main_host:
            continue
        here = [
            run
            for name, run in runs.items()
            if (guest := state.testbed_guests[name]).testbed_host == host.name and not guest.is_golden_image
        ]
        wanted = needed_files(folder, here)
        there = noted.get(host.name, Sent())
        missing: dict[str, NeededFile] = {}
        for path, parcel in wanted.items():
            known = there.contents if parcel.shared else {there.files.get(path)} - {None}
            # what is large is read only where it may be known
            if path not in unmade and not (known and digests.of(parcel.source) in known):
                missing.setdefault(str(parcel.source) if parcel.shared else path, parcel)
        found.append(Transfer(host.name, tuple(missing.values()), tuple(sorted(unmade & wanted.keys()))))
    return found
