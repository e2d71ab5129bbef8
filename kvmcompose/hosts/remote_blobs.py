"""What another host is sent: contents by their SHA-256, once each, and what is a project's own.

    /var/lib/kvm-compose/.store/<sha256>          a content, whole and checked
    /var/lib/kvm-compose/.store/<sha256>.part     one that is on its way: as long as what has arrived
    /var/lib/kvm-compose/.hosted/<project>/       mirrors the project folder, as far as guests there need it

A content is sent in pieces, each written at its place by dd(1); holes are not sent. So a part is as long as
what has come, and whoever goes on knows from where.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import re
import tarfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from kvmcompose.core.deployment import PROJECT_PATTERN
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts import blob_scripts as scripts
from kvmcompose.hosts.blob_listing import StoreListing, decode_notes, encode_notes, split_words
from kvmcompose.hosts.blob_store import HOSTED, STORE, Blob, Inventory
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError, HostLostError

_T = TypeVar("_T")

#: So much is sent at a time, and at most sent twice when a connection breaks. In bytes.
PIECE = 8 << 20
#: What is smaller is sent together with others. In bytes.
_SMALL = 1 << 20
#: How long a host that was lost while something was sent to it has to come back, in seconds.
PATIENCE = 120.0
_PAUSE = 1.0
_PIECE_SECONDS = 300.0
#: The slowest that a file is read at when it is checked, in bytes per second.
_SLOWEST = 10 << 20

_PRIVATE = ".kvm-compose"
_NOTES = f"{_PRIVATE}/delivered.json"
#: Contents that no link of the project's leads to any more, until they are removed.
_GOING = f"{_PRIVATE}/going.json"
_PROGRAMS = ("dd", "ip", "ovs-vsctl", "ps", "qemu-img", "sha256sum", "tar", "timeout")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class RemoteBlobStore:
    """See ``BlobStore``."""

    def __init__(self, machine: CommandRunner, hosted: Path = HOSTED, store: Path = STORE) -> None:
        self._machine = machine
        self._hosted = hosted
        self._store = store
        self._sending: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._noting = asyncio.Lock()

    async def look(self, project: str, home: str) -> Inventory:
        """All that can be known before anything is sent."""
        places = [str(self._hosted), str(self._store), self._folder(project).name]
        # both to their end, whichever fails
        done, rights = await asyncio.gather(
            self._machine.run(["sh", "-c", scripts.LOOK, "sh", *places, *_PROGRAMS]),
            self._machine.run(["true"], privileged=True),
            return_exceptions=True,
        )
        if isinstance(done, BaseException):
            raise done
        if isinstance(rights, BaseException):
            raise rights
        found = StoreListing.parse(done, self._store)
        if found.missing:
            raise DriverError(
                f"programs are not installed on {self._machine.name}: {', '.join(found.missing)}",
                hint="sudo apt-get install libvirt-daemon-system openvswitch-switch qemu-utils iproute2",
            )
        kept = found.home is not None and found.home != home
        if kept and found.home is not None and not await in_thread(_has_moved, found.home, home):
            raise DriverError(
                f"{self._machine.name} keeps another project {project} already, that of {found.home}",
                hint="give this one another name (--project-name), or purge that one where it is:"
                " kvm-compose down --purge",
            )
        return found.holdings()

    async def open(self, project: str, home: str) -> None:
        """The store and the folder of all projects are root's; the project's belongs to our user there."""
        words = [str(self._hosted), str(self._store), self._folder(project).name, home]
        await self._machine.run(["sh", "-c", scripts.OPEN, "sh", *words], privileged=True)

    async def store(self, digest: str, source: Path, told: Callable[[int], None]) -> None:
        """Send it, unless another has meanwhile."""
        async with self._sending[digest]:
            if await self._patiently(lambda: self._is_stored(digest)):
                return
            await self._send(Blob(digest, source), self._content(digest), 0o444, told, shared=True)

    async def _is_stored(self, digest: str) -> bool:
        """By its name: what has a name in the store is whole."""
        done = await self._machine.run(["test", "-e", str(self._content(digest))], check=False)
        return done.status == 0

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        """All in one; contents that were made for what was there before go."""
        folder = self._folder(project)
        before = await self._patiently(lambda: self._made(folder))
        going = before - set(links.values())
        words = [
            word
            for path, digest in links.items()
            for word in (str(self._content(digest)), str(self._inside(folder, path)))
        ]
        await self._patiently(lambda: self._note_going(folder, going))
        await self._patiently(lambda: self._machine.run(["sh", "-c", scripts.LINK, "sh", *words]))
        await self._patiently(lambda: self._sweep(folder, going))

    async def put(self, project: str, files: Mapping[str, Blob], told: Callable[[int], None]) -> None:
        """Small ones in batches, large ones each by itself, and can be gone on with."""
        folder = self._folder(project)
        batch: dict[str, Blob] = {}
        size = 0
        for path, content in files.items():
            self._inside(folder, path)
            length = (await in_thread(content.source.stat)).st_size
            if length > _SMALL:
                await self._put_large(folder, path, content, told)
                continue
            if batch and size + length > PIECE:
                await self._put_batch(folder, batch)
                told(size)
                batch, size = {}, 0
            batch[path] = content
            size += length
        if batch:
            await self._put_batch(folder, batch)
            told(size)

    async def _put_large(self, folder: Path, path: str, content: Blob, told: Callable[[int], None]) -> None:
        """The one that is there goes first: a note of what is not there counts for nothing."""
        mode = (await in_thread(content.source.stat)).st_mode & 0o777
        await self._patiently(lambda: self._machine.run(["rm", "-f", "--", str(folder / path)]))
        await self._patiently(lambda: self._note(folder, path, content.digest))
        await self._send(content, folder / path, mode, told)

    async def _put_batch(self, folder: Path, batch: Mapping[str, Blob]) -> None:
        argv = ["sh", "-c", scripts.UNPACK, "sh", str(folder), *batch]
        async with self._noting:
            noted = await self._patiently(lambda: self._notes(folder))
            before = {path: digest for path, digest in noted.items() if path not in batch}
            after = before | {path: content.digest for path, content in batch.items()}
            archive = await in_thread(_pack, batch.values(), encode_notes(before), encode_notes(after))
            done = await self._patiently(
                lambda: self._machine.run(argv, stdin=archive, seconds=_PIECE_SECONDS, check=False)
            )
        if done.status != 0:
            why = "something else has arrived" if done.status == scripts.OTHER_CONTENT else done.complaint
            raise DriverError(
                f"files of the project did not arrive on {self._machine.name}: {why}",
                hint="is there room, and do they change while they are sent?",
            )

    async def check_images(self, project: str, paths: Collection[str]) -> None:
        """Whoever sends to another host has root's rights there, or has looked already."""

    async def clear(self, project: str) -> None:
        """The folder, and what was made for it."""
        folder = self._folder(project)
        made = await self._made(folder)
        await self._note_going(folder, made)
        if made:
            rest = ["-mindepth", "1", "-maxdepth", "1", "!", "-name", _PRIVATE]
            argv = ["find", str(folder), *rest, "-exec", "rm", "-rf", "--", "{}", "+"]
            await self._machine.run(argv, privileged=True)
        await self._sweep(folder, made)
        await self._machine.run(["rm", "-rf", "--", str(folder)], privileged=True)

    # -- names

    def _folder(self, project: str) -> Path:
        if not re.search(PROJECT_PATTERN, project):
            raise DriverError(f"{project!r} cannot be the name of a project")
        return self._hosted / project

    def _content(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise DriverError(f"{digest!r} is no SHA-256")
        return self._store / digest

    @staticmethod
    def _inside(folder: Path, path: str) -> Path:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
            raise DriverError(f"{path!r} does not lie in the project")
        return folder / path

    # -- what is there

    async def _notes(self, folder: Path) -> dict[str, str]:
        return decode_notes(
            (await self._machine.run(["cat", "--", str(folder / _NOTES)], check=False)).stdout
        )

    async def _note(self, folder: Path, path: str, digest: str) -> None:
        """Note what lies at a path."""
        async with self._noting:
            notes = await self._notes(folder)
            if notes.get(path) != digest:
                await self._write_notes(folder, notes | {path: digest})

    async def _write_notes(self, folder: Path, notes: Mapping[str, str]) -> None:
        await self._write(folder / _NOTES, encode_notes(notes))

    async def _links(self, folder: Path) -> dict[str, str]:
        """Paths that lead into the store, and to what."""
        argv = ["find", str(folder), "-type", "l", "-printf", r"%P\0%l\0"]
        words = split_words(await self._machine.run(argv, check=False))
        pairs = zip(words[::2], words[1::2], strict=True)
        return {path: Path(goal).name for path, goal in pairs if Path(goal).parent == self._store}

    async def _made(self, folder: Path) -> set[str]:
        """Contents that were made here, as golden images are; images as they came may be wanted again."""
        links = await self._links(folder)
        made = {digest for path, digest in links.items() if not _is_image(path)}
        done = await self._machine.run(["cat", "--", str(folder / _GOING)], check=False)
        try:
            return made | msgspec.json.decode(done.stdout, type=set[str])
        except msgspec.MsgspecError:
            return made

    async def _note_going(self, folder: Path, digests: set[str]) -> None:
        """So that they go in the end, even when this is cut off."""
        if digests:
            await self._write(folder / _GOING, msgspec.json.encode(sorted(digests)), privileged=True)

    async def _sweep(self, folder: Path, digests: set[str]) -> None:
        if digests:
            argv = ["sh", "-c", scripts.SWEEP, "sh", str(self._hosted), str(self._store), *sorted(digests)]
            await self._machine.run(argv, privileged=True)
            await self._machine.run(["rm", "-f", "--", str(folder / _GOING)], privileged=True)

    async def _write(self, path: Path, content: bytes, *, privileged: bool = False) -> None:
        argv = ["sh", "-c", scripts.WRITE, "sh", str(path), str(len(content))]
        await self._machine.run(argv, stdin=content, privileged=privileged)

    # -- sending

    async def _send(
        self,
        content: Blob,
        goal: Path,
        mode: int,
        told: Callable[[int], None],
        *,
        shared: bool = False,
    ) -> None:
        """``shared``: to the store, which is root's, under a name that tells what it is."""
        source = content.source
        # on its way it lies where the folder is sure to be there
        folder = self._store if shared else self._hosted / goal.relative_to(self._hosted).parts[0] / _PRIVATE
        part = folder / f"{content.digest}.part"
        size = (await in_thread(source.stat)).st_size
        words = [str(part), str(goal), f"{mode:o}", str(size), content.digest, "yes" if shared else "no"]
        finish = ["sh", "-c", scripts.FINISH, "sh", *words]
        for _attempt in range(2):
            begin = await self._patiently(lambda: self._arrived(part))
            await self._send_from(begin, source, part, told, privileged=shared)
            done = await self._patiently(
                lambda: self._machine.run(
                    finish, seconds=60 + size / _SLOWEST, privileged=shared, check=False
                )
            )
            if done.status == 0:
                return
            if shared and await self._patiently(lambda: self._is_stored(content.digest)):
                return  # another main host was quicker
            if done.status != scripts.OTHER_CONTENT:
                break
        raise DriverError(
            f"{source} did not arrive whole on {self._machine.name}: "
            + ("its digest is another one" if done.status == scripts.OTHER_CONTENT else done.complaint),
            hint=f"is there room, and does {source} change while it is sent?",
        )

    async def _arrived(self, part: Path) -> int:
        """From where to go on. The last piece may have arrived in part: it is sent again."""
        done = await self._machine.run(["stat", "--format=%s", "--", str(part)], check=False)
        size = int(done.text) if done.status == 0 else 0
        return max(0, size - 1) // PIECE * PIECE

    async def _send_from(
        self, begin: int, source: Path, part: Path, told: Callable[[int], None], *, privileged: bool
    ) -> None:
        words = [f"of={part}", "bs=1M", "iflag=fullblock", "oflag=seek_bytes", "conv=notrunc", "status=none"]

        async def send(offset: int, data: bytes) -> None:
            argv = ["sh", "-c", scripts.DD, "dd", *words, f"seek={offset}"]
            await self._machine.run(argv, stdin=data, seconds=_PIECE_SECONDS, privileged=privileged)

        with await in_thread(source.open, "rb") as file:
            for offset, length in await in_thread(lambda: list(pieces(file.fileno(), begin))):
                data = await in_thread(os.pread, file.fileno(), length, offset)
                await self._patiently(functools.partial(send, offset, data))
                told(len(data))

    @staticmethod
    async def _patiently(work: Callable[[], Awaitable[_T]]) -> _T:
        """Do something that may be done twice; a host that is lost meanwhile is waited for."""
        end: float | None = None
        while True:
            try:
                return await work()
            except HostLostError:
                end = end or time.monotonic() + PATIENCE  # from now on, however long it went well
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(_PAUSE)


def _is_image(path: str) -> bool:
    """Whether what lies at a path is as it came, and may be wanted by another project."""
    return path.startswith("artefacts/images/") or path.endswith("-media.iso")


def _has_moved(then: str, now: str) -> bool:
    """Whether it is this machine that has it, called otherwise by now, or with the folder elsewhere."""
    (before, _, folder), (here, _, place) = then.partition(":"), now.partition(":")
    if before == here.partition("/")[0] and folder == place:  # noted before owners were
        return True
    if before.split()[-1:] != here.split()[-1:]:
        return False
    return folder == place or _is_gone(folder)


def _is_gone(folder: str) -> bool:
    """What may not be looked at is not gone."""
    try:
        os.stat(folder)  # noqa: PTH116 (a path that another wrote)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _pack(contents: Iterable[Blob], before: bytes, after: bytes) -> bytes:
    """An archive for UNPACK."""
    memory, sums = io.BytesIO(), []
    with tarfile.open(fileobj=memory, mode="w") as archive:

        def add(name: str, data: bytes, mode: int = 0o644) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))

        for number, content in enumerate(contents):
            add(str(number), content.source.read_bytes(), content.source.stat().st_mode & 0o777)
            sums.append(f"{content.digest}  {number}\n")
        add("before", before)
        add("after", after)
        add("sums", "".join(sums).encode())
    return memory.getvalue()


def pieces(descriptor: int, begin: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what is data in a file, from ``begin`` on, in pieces that end where PIECE does.

    lseek(2): SEEK_DATA, SEEK_HOLE. A file system without holes tells of one piece of data.
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
