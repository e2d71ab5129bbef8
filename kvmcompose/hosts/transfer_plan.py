"""What has to be sent to another host for its guests: their files, and the backing files of their disks.

On the main host the project folder has everything.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from kvmcompose.core.deployable import ContainerGuest, DeployableGuest
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.once import once
from kvmcompose.core.planned import FileToMake
from kvmcompose.core.state import State
from kvmcompose.effects import private
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.stat_cache import Remembered, StatCache, StatMemo
from kvmcompose.guests import guest_kind
from kvmcompose.images.image_archives import opened_image
from kvmcompose.images.qcow2 import HEAD_BYTES, is_pristine, parse_header, read_header

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Caches digests of images in the project folder.
_REMEMBERED = ".kvm-compose/digests.json"
#: Records what other hosts were sent, so that commands can tell without contacting them.
_SENT = ".kvm-compose/sent.json"
_BLOCK = 512
_LONGEST_CHAIN = 64
#: Held while a record is read, changed and written.
_writing = threading.Lock()
_backing_files = StatMemo(lambda path: read_header(Path(path)).backing_file, 100_000)


class NeededFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A file that a host needs. ``path`` is relative to the project folder, ``source`` is the local file.

    ``shared``: read-only, so that it is sent once as a blob. ``disk``: a guest writes to it; ``raw``: it is
    no qcow2 image, whatever it begins with. ``size`` is the
    amount of data in bytes, without holes. ``below`` are the backing files of a disk.
    """

    path: str
    source: str
    size: int
    shared: bool = False
    disk: bool = False
    raw: bool = False
    below: tuple[str, ...] = ()


def needed_files(
    folder: Path,
    guests: Iterable[DeployableGuest],
    files: OwnerFiles | None = None,
    to_be_made: Mapping[str, FileToMake] = MappingProxyType({}),
) -> dict[str, NeededFile]:
    """Return what these guests need, by path; ``files`` reads it with the rights of another user.

    ``to_be_made`` are files that the build has not made yet. Raises KvmComposeError, or OSError for a missing
    file.
    """
    found: dict[str, NeededFile] = {}
    look = _Look(folder, files)
    for guest in guests:
        for path in guest.files:
            if path == guest.read_here:
                continue
            if path in to_be_made:
                found.update(_file_to_be_made(folder, path, files, to_be_made[path], guest))
                continue
            file = look.at(path, disk=path in guest.disks, raw=path in guest.raw_disks)
            if path in guest.image_disks:
                file = msgspec.structs.replace(file, below=tuple(_chain(folder, path, files)))
            found[path] = file
            for below in file.below:
                if below not in found:
                    found[below] = look.at(below, below=True)
    return found


def _file_to_be_made(
    folder: Path, path: str, files: OwnerFiles | None, made: FileToMake, guest: DeployableGuest
) -> Iterator[tuple[str, NeededFile]]:
    """Yield a file that is not there yet, and those of its backing files that are."""
    yield (
        path,
        NeededFile(
            path=path,
            source=str(folder / path),
            size=made.size,
            shared=made.link,
            disk=path in guest.disks,
            raw=path in guest.raw_disks,
        ),
    )
    if made.backing is None:
        return
    below = os.path.normpath(os.path.join(os.path.dirname(path), made.backing))  # noqa: PTH118, PTH120
    with contextlib.suppress(OSError):  # it is made, or downloaded, by the build
        for each in (below, *_chain(folder, below, files)):
            yield each, _Look(folder, files).at(each, below=True)


class _Look:
    """One look at files of a project, perhaps with the rights of another user."""

    def __init__(self, folder: Path, files: OwnerFiles | None) -> None:
        self._folder = folder
        self._files = files
        self._folders: dict[str, str] = {}

    def at(self, path: str, *, disk: bool = False, raw: bool = False, below: bool = False) -> NeededFile:
        """Return a file; ``below`` is that of a disk. A link points to an image. Raises OSError."""
        if self._files is not None:
            seen = self._files.see(self._folder / path)
            size = min(seen.size, seen.allocated)
            shared = below or seen.linked
            source = str(self._folder / path)
            return NeededFile(path=path, source=source, size=size, shared=shared, disk=disk, raw=raw)
        source = os.path.join(self._folder, path)  # noqa: PTH118 (pathlib takes most of the time)
        status = os.lstat(source)
        linked = stat.S_ISLNK(status.st_mode)
        if linked:
            source = os.path.realpath(source, strict=True)
            status = os.stat(source)  # noqa: PTH116
        else:
            parent, name = os.path.split(source)
            if parent not in self._folders:
                self._folders[parent] = os.path.realpath(parent, strict=True)
            source = os.path.join(self._folders[parent], name)  # noqa: PTH118
        size = min(status.st_size, status.st_blocks * _BLOCK)
        shared = below or linked
        return NeededFile(path=path, source=source, size=size, shared=shared, disk=disk, raw=raw)


def _chain(folder: Path, disk: str, files: OwnerFiles | None) -> Iterator[str]:
    """Yield the backing files of a disk; each names the next one relative to its own folder."""
    path = disk
    for _ in range(_LONGEST_CHAIN):
        backing = backing_file(os.path.join(folder, path), files)  # noqa: PTH118 (see above)
        if backing is None:
            return
        path = os.path.normpath(os.path.join(os.path.dirname(path), backing))  # noqa: PTH118, PTH120
        yield path
    raise KvmComposeError(f"{disk} has a chain of more than {_LONGEST_CHAIN} backing files")


def backing_file(path: str, files: OwnerFiles | None) -> str | None:
    """Return the backing file of a disk, as it names it. Raises KvmComposeError, or OSError."""
    if files is None:
        return _backing_files.get(path)
    try:
        header = parse_header(files.read(Path(path), HEAD_BYTES))
    except ValueError as error:
        raise KvmComposeError(f"{path} is not a valid qcow2 image: {error}") from error
    return header.backing_file if header is not None else None


class Digests:
    """The SHA-256 of large files, cached in the project folder."""

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

    def of(self, source: str) -> str:
        """Return the digest of a file, by its path without links. Raises OSError.

        An image in the store has it as its name.
        """
        name = source.rpartition("/")[2]
        return name if _DIGEST.fullmatch(name) else self._cache.digest_of(source)

    def recheck(self) -> None:
        """Check again whether files have changed."""
        self._cache.forget_run()

    def keep(self) -> None:
        """Save new digests."""
        with _writing:  # transfers to several hosts end at the same time
            fresh = dict(self._cache.fresh)
            if fresh.items() <= self._known.items():
                return
            self._known |= fresh
            private.write(self._path, msgspec.json.encode(self._known))


class Sent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a host had after the last transfer: digests of blobs, and of the project's own files by path.

    ``stale`` are the paths of disks that were moved to another host since, or that have not arrived as a
    whole: what is there under these paths is never used, and removed. ``left`` are disks of guests that were
    removed, on the main host.
    """

    contents: frozenset[str] = frozenset()
    files: dict[str, str] = {}
    stale: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()


def note_sent(folder: Path, host: str, sent: Sent) -> None:
    """Record what a host was sent. Raises OSError."""
    with _changed(folder) as noted:
        noted[host] = sent


def note_file(folder: Path, host: str, path: str, digest: str) -> None:
    """Record the digest of a file that a host has now. Raises OSError."""
    with _changed(folder) as noted:
        known = noted.get(host, Sent())
        noted[host] = msgspec.structs.replace(known, files=known.files | {path: digest})


def note_moved(folder: Path, path: str, before: str, after: str, digest: str | None) -> None:
    """Record that a disk moved from one host to another, in one step. Raises OSError.

    ``digest`` is that of what the host has now, None for the main host.
    """
    with _changed(folder) as noted:
        there, here = noted.get(before, Sent()), noted.get(after, Sent())
        rest = {each: known for each, known in there.files.items() if each != path}
        noted[before] = msgspec.structs.replace(there, files=rest, stale=there.stale | {path})
        files = here.files if digest is None else here.files | {path: digest}
        _put(noted, after, msgspec.structs.replace(here, files=files, stale=here.stale - {path}))


def note_stale(folder: Path, host: str, path: str, *, stale: bool) -> None:
    """Record whether what a host has under the path of a disk is never to be used. Raises OSError."""
    with _changed(folder) as noted:
        known = noted.get(host, Sent())
        after = known.stale | {path} if stale else known.stale - {path}
        _put(noted, host, msgspec.structs.replace(known, stale=after))


def note_left(folder: Path, host: str, paths: Collection[str], known: Collection[str | None]) -> None:
    """Record disks of removed guests on the main host; those in ``known`` belong to guests again.

    Raises OSError.
    """
    with _changed(folder) as noted:
        before = noted.get(host, Sent())
        _put(noted, host, msgspec.structs.replace(before, left=(before.left | set(paths)) - set(known)))


def forget_sent(folder: Path, host: str) -> None:
    """Remove the record of a host. Raises OSError."""
    with _changed(folder) as noted:
        noted.pop(host, None)


def _put(noted: dict[str, Sent], host: str, sent: Sent) -> None:
    """Change the record of a host, which has none if nothing is known of it."""
    noted[host] = sent
    if sent == Sent():
        del noted[host]


@contextlib.contextmanager
def _changed(folder: Path) -> Iterator[dict[str, Sent]]:
    """Change the record; transfers to several hosts end at the same time."""
    with _writing:
        noted = read_sent(folder)
        before = dict(noted)
        yield noted
        if noted != before:
            private.write(folder / _SENT, msgspec.json.encode(noted, order="deterministic"))


def read_sent(folder: Path) -> dict[str, Sent]:
    """Read what each host was sent; nothing when the record cannot be read."""
    try:
        noted = read_regular(folder / _SENT, limit=DOCUMENT_LIMIT, follow=False)
        return msgspec.json.decode(noted, type=dict[str, Sent])
    except (OSError, msgspec.MsgspecError):
        return {}


class Transfer(msgspec.Struct, frozen=True):
    """What would be sent to a host. ``unmade`` are golden images that are not set up yet."""

    host: str
    files: tuple[NeededFile, ...]
    unmade: tuple[str, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.size for file in self.files)


def plan_transfers(folder: Path, state: State) -> list[Transfer]:
    """Return what ``up`` would send to each host, according to local records; no host is contacted.

    Images of containers in files count, as nothing is recorded of what engines have. Raises KvmComposeError,
    or OSError when artefacts are missing.
    """
    runs = {
        name: run
        for name, guest in state.testbed_guests.items()
        if (run := guest_kind(guest.kind).deployable(guest, state.shared)) is not None
    }
    unmade = {
        path
        for name, run in runs.items()
        if state.testbed_guests[name].is_golden_image and run.setup_scripts and run.boot_disk is not None
        if is_pristine(folder / run.boot_disk)
        for path in run.disks
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
        for path, file in wanted.items():
            known = there.contents if file.shared else {there.files.get(path)} - {None}
            # a large file is read only if it may have been sent
            if path not in unmade and not (known and digests.of(file.source) in known):
                missing.setdefault(file.source if file.shared else path, file)
        missing |= _image_files(folder, here)
        found.append(Transfer(host.name, tuple(missing.values()), tuple(sorted(unmade & wanted.keys()))))
    return found


def _image_files(folder: Path, runs: Iterable[DeployableGuest]) -> dict[str, NeededFile]:
    """Return the files that images of containers are loaded from, by the IDs of the images."""
    found = {}
    for run in runs:
        if isinstance(run, ContainerGuest) and run.image_file is not None and run.image not in found:
            path = folder / run.image_file.path
            with opened_image(run.image_file, path) as image:
                found[run.image] = NeededFile(path=str(run.image_file), source=str(path), size=image.size)
    return found
