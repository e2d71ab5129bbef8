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
import os
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from kvmcompose.core.deployment import PROJECT_PATTERN
from kvmcompose.server.drivers import HOSTED, DriverError
from kvmcompose.server.drivers._host_connection import HostLostError
from kvmcompose.server.drivers.machine import Completed, Machine

_T = TypeVar("_T")

STORE = Path("/var/lib/kvm-compose/.store")
#: So much is sent at a time, and at most sent twice when a connection breaks. In bytes.
PIECE = 8 << 20
#: How long a host that was lost while something was sent to it has to come back, in seconds.
PATIENCE = 120.0
_PAUSE = 1.0
_PIECE_SECONDS = 300.0
#: The slowest that a file is read at when it is checked, in bytes per second.
_SLOWEST = 10 << 20

_PRIVATE = ".kvm-compose"
_HOME = f"{_PRIVATE}/home"
_NOTES = f"{_PRIVATE}/delivered.json"
#: Contents that no link of the project's leads to any more, until they are removed.
_GOING = f"{_PRIVATE}/going.json"
_PROGRAMS = ("dd", "ip", "ovs-vsctl", "ps", "qemu-img", "sha256sum", "timeout")
_DIGEST = re.compile(r"[0-9a-f]{64}")

_MISSING = 'for each; do command -v "$each" >/dev/null || echo "$each"; done'
_ROOM = 'for each; do if [ -d "$each" ]; then exec df --output=avail -B1 -- "$each"; fi; done'
#: As dd(1); nobody else reads what is on its way.
_DD = 'umask 077 && exec dd "$@"'
#: Part, name, mode, length, digest, whether the name tells the content: then it may be there meanwhile, from
#: another main host. Ends with 65 when something else has arrived.
_FINISH = """\
if [ "$6" = yes ] && [ -e "$2" ]; then rm -f -- "$1"; exit; fi
truncate -s "$4" -- "$1" || exit
sum=$(sha256sum <"$1") || exit
if [ "${sum%% *}" != "$5" ]; then rm -f -- "$1"; exit 65; fi
chmod "$3" "$1" && sync "$1" && mv -fT -- "$1" "$2"
"""
_OTHER_CONTENT = 65
#: Path, length: when the connection breaks the end comes too early, and looks like any.
_WRITE = 'cat >"$1.part" && [ "$(stat -c %s -- "$1.part")" = "$2" ] && mv -fT -- "$1.part" "$1"'
_LINK = """\
while [ $# -gt 0 ]; do
    mkdir -p -- "${2%/*}" && ln -sfT -- "$1" "$2" || exit
    shift 2
done
"""
#: Which of the contents that are named no link leads to: they are removed.
_SWEEP = """\
hosted=$1 store=$2
shift 2
used=$(find "$hosted" -type l -printf '%l\\n') || exit
for each; do
    case "
$used
" in *"
$store/$each
"*) ;; *) rm -f -- "$store/$each" ;; esac
done
"""


class HostDepot:
    """See ``Depot``."""

    def __init__(self, machine: Machine, hosted: Path = HOSTED, store: Path = STORE) -> None:
        self._machine = machine
        self._hosted = hosted
        self._store = store
        self._sending: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._noting = asyncio.Lock()

    async def check(self, project: str, home: str) -> None:
        """All that can be known before anything is sent."""
        done = await self._machine.run(["sh", "-c", _MISSING, "sh", *_PROGRAMS], check=False)
        if done.text.split():
            raise DriverError(
                f"programs are not installed on {self._machine.name}: {', '.join(done.text.split())}",
                hint="sudo apt-get install libvirt-daemon-system openvswitch-switch qemu-utils iproute2",
            )
        await self._machine.run(["true"], privileged=True)
        done = await self._machine.run(["cat", "--", str(self._folder(project) / _HOME)], check=False)
        there = done.text.strip()
        if done.status == 0 and there != home:
            raise DriverError(
                f"{self._machine.name} keeps another project {project} already, that of {there}",
                hint="kvm-compose down --purge there, or another name for this one: --project-name",
            )

    async def room(self) -> int:
        """Free space of the file system that the store is on, or will be."""
        places = [str(path) for path in (self._store, self._store.parent, Path("/var/lib"), Path("/"))]
        done = await self._machine.run(["sh", "-c", _ROOM, "sh", *places])
        return int(done.text.split()[-1])

    async def open(self, project: str, home: str) -> None:
        """The store and the folder of all projects are root's; the project's belongs to our user there."""
        folder = self._folder(project)
        user = (await self._machine.run(["id", "-u"])).text.strip()
        make = ["install", "-d", "-m", "755"]
        await self._machine.run([*make, str(self._hosted), str(self._store)], privileged=True)
        await self._machine.run([*make, "-o", user, str(folder), str(folder / _PRIVATE)], privileged=True)
        await self._write(folder / _HOME, home.encode())

    async def stored(self, digests: Sequence[str]) -> frozenset[str]:
        """By their names: what has a name in the store is whole."""
        if not digests:
            return frozenset()
        done = await self._machine.run(["ls", "-1", "--", str(self._store)], check=False)
        return frozenset(digests) & frozenset(done.text.split())

    async def store(self, digest: str, source: Path, told: Callable[[int], None]) -> None:
        """Send it, unless another has meanwhile."""
        async with self._sending[digest]:
            if await self._patiently(lambda: self.stored([digest])):
                return
            await self._send(source, self._content(digest), digest, 0o444, told, content=True)

    async def delivered(self, project: str) -> Mapping[str, str]:
        """Notes count for what is there; a link tells by itself what it leads to, if it leads anywhere."""
        folder = self._folder(project)
        if (await self._machine.run(["test", "-d", str(folder)], check=False)).status != 0:
            return {}
        argv = ["find", "-L", str(folder / "artefacts"), "-type", "f", "-printf", r"artefacts/%P\0"]
        there = _split(await self._machine.run(argv, check=False))
        notes = await self._notes(folder)
        links = await self._links(folder)
        return {path: links.get(path) or notes.get(path, "") for path in there}

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
        await self._patiently(lambda: self._machine.run(["sh", "-c", _LINK, "sh", *words]))
        await self._patiently(lambda: self._sweep(folder, going))

    async def put(
        self, project: str, path: str, digest: str, source: Path, told: Callable[[int], None]
    ) -> None:
        """Send it, and note what it is; what is noted of the one before goes first."""
        folder = self._folder(project)
        goal = self._inside(folder, path)
        mode = (await asyncio.to_thread(source.stat)).st_mode & 0o777
        await self._patiently(lambda: self._machine.run(["mkdir", "-p", "--", str(goal.parent)]))
        await self._patiently(lambda: self._note(folder, path, None))
        await self._send(source, goal, digest, mode, told, content=False)
        await self._patiently(lambda: self._note(folder, path, digest))

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
        done = await self._machine.run(["cat", "--", str(folder / _NOTES)], check=False)
        try:
            return msgspec.json.decode(done.stdout, type=dict[str, str])
        except msgspec.MsgspecError:
            return {}

    async def _note(self, folder: Path, path: str, digest: str | None) -> None:
        """Note what lies at a path, or that this is not known."""
        async with self._noting:
            before = await self._notes(folder)
            notes = {each: noted for each, noted in before.items() if each != path}
            if digest is not None:
                notes[path] = digest
            if notes != before:
                await self._write(folder / _NOTES, msgspec.json.encode(notes, order="deterministic"))

    async def _links(self, folder: Path) -> dict[str, str]:
        """Paths that lead into the store, and to what."""
        argv = ["find", str(folder), "-type", "l", "-printf", r"%P\0%l\0"]
        words = _split(await self._machine.run(argv, check=False))
        pairs = zip(words[::2], words[1::2], strict=True)
        return {path: Path(goal).name for path, goal in pairs if Path(goal).parent == self._store}

    async def _made(self, folder: Path) -> set[str]:
        """Contents that were made here, as golden images are; images as they came may be wanted again."""
        links = await self._links(folder)
        made = {digest for path, digest in links.items() if not path.startswith("artefacts/images/")}
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
            argv = ["sh", "-c", _SWEEP, "sh", str(self._hosted), str(self._store), *sorted(digests)]
            await self._machine.run(argv, privileged=True)
            await self._machine.run(["rm", "-f", "--", str(folder / _GOING)], privileged=True)

    async def _write(self, path: Path, content: bytes, *, privileged: bool = False) -> None:
        argv = ["sh", "-c", _WRITE, "sh", str(path), str(len(content))]
        await self._machine.run(argv, stdin=content, privileged=privileged)

    # -- sending

    async def _send(
        self,
        source: Path,
        goal: Path,
        digest: str,
        mode: int,
        told: Callable[[int], None],
        *,
        content: bool,
    ) -> None:
        """``content``: to the store, which is root's, under a name that tells what it is."""
        part = goal.with_name(f"{digest}.part")
        size = (await asyncio.to_thread(source.stat)).st_size
        words = [str(part), str(goal), f"{mode:o}", str(size), digest, "yes" if content else "no"]
        finish = ["sh", "-c", _FINISH, "sh", *words]
        for _attempt in range(2):
            begin = await self._patiently(lambda: self._arrived(part))
            await self._send_from(begin, source, part, told, privileged=content)
            done = await self._patiently(
                lambda: self._machine.run(
                    finish, seconds=60 + size / _SLOWEST, privileged=content, check=False
                )
            )
            if done.status == 0:
                return
            if content:
                stored = await self._patiently(lambda: self.stored([digest]))
                if stored:
                    return  # another main host was quicker
            if done.status != _OTHER_CONTENT:
                break
        raise DriverError(
            f"{source} did not arrive whole on {self._machine.name}: "
            + ("its digest is another one" if done.status == _OTHER_CONTENT else done.complaint),
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
            argv = ["sh", "-c", _DD, "dd", *words, f"seek={offset}"]
            await self._machine.run(argv, stdin=data, seconds=_PIECE_SECONDS, privileged=privileged)

        with source.open("rb") as file:
            for offset, length in await asyncio.to_thread(lambda: list(pieces(file.fileno(), begin))):
                data = await asyncio.to_thread(os.pread, file.fileno(), length, offset)
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


def _split(done: Completed) -> list[str]:
    """What find(1) printed, a zero after each."""
    return done.text.split("\0")[:-1]


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
