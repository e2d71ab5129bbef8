"""Blobs on another host: each content is sent once, in pieces, over the host's command runner.

Each piece is written at its offset by dd(1); holes are not sent. So the length of a part tells where an
interrupted transfer continues.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_commands import OTHER_CONTENT, StoreCommands, encode_notes
from kvmcompose.hosts.blob_store import HOSTED, STORE, Blob, FileSize, Inventory
from kvmcompose.hosts.command import CommandRunner, Completed
from kvmcompose.hosts.errors import DriverError

#: The length of a piece, in bytes. After a break at most one piece is sent again.
PIECE = 8 << 20
#: Files up to this size are sent together with others, in bytes.
SMALL = 1 << 20

_NO_LINK = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC

_ROOM_HINT = "is there enough free space, and does {} change while it is sent?"


class RemoteBlobStore:
    """See ``BlobStore``."""

    def __init__(self, runner: CommandRunner, hosted: Path = HOSTED, store: Path = STORE) -> None:
        #: The name of the host.
        self.host = runner.name
        self._runner = runner
        self._hosted = hosted
        self._store = store
        self._once = StoreCommands(runner, hosted, store)
        self._patient = StoreCommands(runner, hosted, store, patient=True)
        self._sending: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._noting = asyncio.Lock()

    async def inspect(self, project: str, home: str) -> Inventory:
        """Check everything that can be known before a transfer."""
        # both to their end, whichever fails
        found, rights = await asyncio.gather(
            self._once.listing(project), self._runner.run(["true"], privileged=True), return_exceptions=True
        )
        if isinstance(found, BaseException):
            raise found
        if isinstance(rights, BaseException):
            raise rights
        if found.missing:
            raise DriverError(
                f"programs are not installed on {self._runner.name}: {', '.join(found.missing)}",
                hint="sudo apt-get install libvirt-daemon-system openvswitch-switch qemu-utils iproute2",
            )
        if found.home not in (None, home) and not await in_thread(_has_moved, found.home, home):
            raise DriverError(
                f"{self._runner.name} already has another project {project}, that of {found.home}",
                hint="give this one another name (--project-name), or purge that one where it is:"
                " kvm-compose down --purge",
            )
        return found.inventory

    async def open(self, project: str, home: str) -> None:
        """Store and folder of all projects are root's; the project's own belongs to our user there."""
        await self._once.create(project, home)

    async def store(self, digest: str, source: Path, progress: Callable[[int], None]) -> None:
        """Send a blob, unless the store has it by now."""
        async with self._sending[digest]:
            if not await self._patient.is_stored(digest):
                target = self._once.blob(digest)
                await self._send(Blob(digest, source), target, 0o444, progress, shared=True)

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        """Link them all in one call. Blobs that were made for the project and are replaced are removed."""
        await self._patient.link(self._once.folder(project), links)

    async def put(self, project: str, files: Mapping[str, Blob], progress: Callable[[int], None]) -> None:
        """Send small files in batches, and each large one by itself, resumable."""
        folder = self._once.folder(project)
        batch: dict[str, Blob] = {}
        size = 0
        for path, blob in files.items():
            target = self._once.inside(folder, path)
            status = await in_thread(blob.source.stat)
            if status.st_size > SMALL:
                # the old one is removed first: a record without a file counts for nothing
                await self._patient.remove(target)
                await self._note(folder, path, blob.digest)
                await self._send(blob, target, status.st_mode & 0o777, progress)
                continue
            if batch and size + status.st_size > PIECE:
                await self._put_batch(folder, batch)
                progress(size)
                batch, size = {}, 0
            batch[path] = blob
            size += status.st_size
        if batch:
            await self._put_batch(folder, batch)
            progress(size)

    async def _put_batch(self, folder: Path, batch: Mapping[str, Blob]) -> None:
        async with self._noting:
            noted = await self._patient.notes(folder)
            before = {path: digest for path, digest in noted.items() if path not in batch}
            after = before | {path: blob.digest for path, blob in batch.items()}
            archive = await in_thread(_pack, batch.values(), encode_notes(before), encode_notes(after))
            done = await self._patient.unpack(folder, batch, archive)
        if done.status != 0:
            why = "their digests differ" if done.status == OTHER_CONTENT else done.complaint
            raise DriverError(
                f"cannot send files of the project to {self._runner.name}: {why}",
                hint=_ROOM_HINT.format("one of them"),
            )

    async def stage(self, project: str, path: str, blob: Blob, progress: Callable[[int], None]) -> None:
        """Send a file to a path of the project, resumable, which nothing records; only its owner reads it."""
        await self._send(blob, self._inside(project, path), 0o600, progress)

    async def run_program(
        self, source: str, project: str, *words: str, stdin: bytes | None = None
    ) -> Completed:
        """Run a program in Python as root; its first argument is the project's folder. Raises DriverError."""
        return await self._patient.program(source, self._once.folder(project), *words, stdin=stdin)

    async def measure(self, project: str, path: str) -> FileSize:
        """Ask find(1)."""
        return await self._once.measure(self._inside(project, path))

    async def digest(self, project: str, path: str, size: FileSize) -> str:
        """Ask sha256sum(1)."""
        return await self._patient.digest(self._inside(project, path), size.length)

    async def fetch(
        self, project: str, path: str, blob: Blob, size: FileSize, progress: Callable[[int], None]
    ) -> None:
        """Read it in pieces; the length of the local part tells where an interrupted transfer continues."""
        source = self._inside(project, path)
        if await in_thread(_is_there, blob):
            return
        part = blob.source.with_name(f"{blob.source.name}.part")
        for _attempt in range(2):
            begin = await in_thread(_arrived, part)
            for offset in range(begin, size.length, PIECE):
                data = await self._patient.read_piece(source, offset, min(PIECE, size.length - offset))
                await in_thread(_write_piece, part, offset, data)
                progress(len(data))
            if await in_thread(_finish, part, blob, size.length):
                return
        raise DriverError(
            f"cannot fetch {source} from {self._runner.name}: its digest differs",
            hint="is it used by a guest that runs?",
        )

    def _inside(self, project: str, path: str) -> Path:
        return self._once.inside(self._once.folder(project), path)

    async def note(self, project: str, path: str, digest: str) -> None:
        """Record it like a delivery."""
        await self._note(self._once.folder(project), path, digest)

    async def check_images(self, project: str, paths: Collection[str]) -> None:
        """Nothing to check: who sends to another host is root there, or their images were checked before."""

    async def clear(self, project: str) -> None:
        """Remove the folder, and the blobs that were made for it."""
        await self._once.clear(self._once.folder(project))

    async def _note(self, folder: Path, path: str, digest: str) -> None:
        """Record what was delivered to a path."""
        async with self._noting:
            notes = await self._patient.notes(folder)
            if notes.get(path) != digest:
                await self._patient.write_notes(folder, notes | {path: digest})

    async def _send(
        self,
        blob: Blob,
        target: Path,
        mode: int,
        progress: Callable[[int], None],
        *,
        shared: bool = False,
    ) -> None:
        """Send a file. ``shared``: to the store, which is root's."""
        part = self._once.part(blob.digest, target)
        size = (await in_thread(blob.source.stat)).st_size
        for _attempt in range(2):
            # the last piece may be incomplete: it is sent again
            begin = max(0, await self._patient.arrived(part) - 1) // PIECE * PIECE
            with await in_thread(blob.source.open, "rb") as file:
                for offset, length in await in_thread(_pieces, file.fileno(), begin):
                    data = await in_thread(os.pread, file.fileno(), length, offset)
                    await self._patient.write_piece(part, offset, data, privileged=shared)
                    progress(len(data))
            done = await self._patient.finish(part, target, mode, size, blob.digest, shared=shared)
            if done.status == 0:
                return
            if shared and await self._patient.is_stored(blob.digest):
                return  # another main host was faster
            if done.status != OTHER_CONTENT:
                break
        why = "its digest differs" if done.status == OTHER_CONTENT else done.complaint
        raise DriverError(
            f"cannot send {blob.name} to {self._runner.name}: {why}", hint=_ROOM_HINT.format(blob.name)
        )


def _pieces(descriptor: int, begin: int) -> list[tuple[int, int]]:
    return list(pieces(descriptor, begin))


def _is_there(blob: Blob) -> bool:
    try:
        with os.fdopen(os.open(blob.source, _NO_LINK), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == blob.digest
    except FileNotFoundError:
        return False


def _arrived(part: Path) -> int:
    """Return where a transfer continues: the last piece may be incomplete. Others may not read the part."""
    os.close(os.open(part, _NO_LINK | os.O_CREAT, 0o600))
    return max(0, part.stat().st_size - 1) // PIECE * PIECE


def _write_piece(part: Path, offset: int, data: bytes) -> None:
    """Write a piece; one of zeros becomes a hole."""
    with os.fdopen(os.open(part, _NO_LINK), "r+b") as file:
        file.truncate(offset + len(data))
        if any(data):
            file.seek(offset)
            file.write(data)


def _finish(part: Path, blob: Blob, length: int) -> bool:
    """Verify a part and put it in its place; remove it if it is not what was announced."""
    with os.fdopen(os.open(part, _NO_LINK), "r+b") as file:
        file.truncate(length)
        if hashlib.file_digest(file, "sha256").hexdigest() != blob.digest:
            part.unlink()
            return False
        os.fsync(file.fileno())
    part.replace(blob.source)
    return True


def _has_moved(then: str, now: str) -> bool:
    """Return whether ``then`` is this main host under an earlier name, or the project's earlier folder."""
    (before, _, folder), (here, _, place) = then.partition(":"), now.partition(":")
    if before == here.partition("/")[0] and folder == place:  # recorded before owners were
        return True
    if before.split()[-1:] != here.split()[-1:]:
        return False
    return folder == place or _is_gone(folder)


def _is_gone(folder: str) -> bool:
    """Return whether a folder does not exist; one that cannot be inspected does."""
    try:
        os.stat(folder)  # noqa: PTH116 (a path that another wrote)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _pack(blobs: Iterable[Blob], before: bytes, after: bytes) -> bytes:
    """Return the archive for ``StoreCommands.unpack``."""
    memory, sums = io.BytesIO(), []
    with tarfile.open(fileobj=memory, mode="w") as archive:

        def add(name: str, data: bytes, mode: int = 0o644) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))

        for number, blob in enumerate(blobs):
            add(str(number), blob.source.read_bytes(), blob.source.stat().st_mode & 0o777)
            sums.append(f"{blob.digest}  {number}\n")
        add("before", before)
        add("after", after)
        add("sums", "".join(sums).encode())
    return memory.getvalue()


def pieces(descriptor: int, begin: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of a file's data from ``begin`` on, in pieces that end at multiples of PIECE.

    See SEEK_DATA and SEEK_HOLE in lseek(2). On a file system without holes the whole file is data.
    """
    end = os.fstat(descriptor).st_size
    while begin < end:
        try:
            begin = os.lseek(descriptor, begin, os.SEEK_DATA)
        except OSError:  # ENXIO: the rest is a hole
            return
        until = os.lseek(descriptor, begin, os.SEEK_HOLE)
        while begin < until:
            length = min(until, (begin // PIECE + 1) * PIECE) - begin
            yield begin, length
            begin += length
