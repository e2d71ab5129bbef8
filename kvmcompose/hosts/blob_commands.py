"""What a blob store runs on its host, and how it reads what these commands print.

    /var/lib/kvm-compose/.store/<sha256>          a blob, complete and verified
    /var/lib/kvm-compose/.store/<sha256>.part     a blob in transfer: as long as what has arrived
    /var/lib/kvm-compose/.hosted/<project>/       mirrors the project folder, as far as guests there need it

Each script does its work in one call, because every round trip costs time. Arguments are passed as arguments,
never inside a script. Scripts print words, each terminated by a zero byte.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from kvmcompose.core.commands import PROJECT_PATTERN
from kvmcompose.hosts.blob_store import FileSize, Inventory
from kvmcompose.hosts.command import CommandRunner, Completed, is_not_installed, not_installed
from kvmcompose.hosts.errors import DriverError, HostLostError

#: How long a host that is lost during a transfer has to come back, in seconds.
PATIENCE = 120.0
_PAUSE = 1.0
_PIECE_SECONDS = 300.0
#: The slowest rate at which a file is read when it is verified, in bytes per second.
_SLOWEST = 10 << 20
#: The unit of ``find -printf %b``, in bytes.
_BLOCK = 512

#: The folder of a project that holds what is known about it.
PRIVATE = ".kvm-compose"
#: The folder of a project that has what builds make; on other hosts only that is linked to blobs.
ARTEFACTS = "artefacts"
_NOTES = f"{PRIVATE}/delivered.json"
#: Blobs that no link of the project points to any more, until they are removed.
_GOING = f"{PRIVATE}/going.json"
_PROGRAMS = ("dd", "ip", "ovs-vsctl", "ps", "qemu-img", "sha256sum", "tar", "timeout")
_DIGEST = re.compile(r"[0-9a-f]{64}")

#: How _FINISH and _UNPACK exit when what arrived is not what was sent.
OTHER_CONTENT = 65

#: Arguments: folder of all projects, store, project, required programs. Prints pairs of kind and value.
_LIST = r"""
hosted=$1 store=$2 project=$3
shift 3
for each; do command -v "$each" >/dev/null || printf 'missing\0%s\0' "$each"; done
for each in "$store" "${store%/*}" /var/lib /; do
    if [ -d "$each" ]; then
        printf 'room\0%s\0' "$(df --output=avail -B1 -- "$each" | tail -n 1)"
        break
    fi
done
[ ! -d "$store" ] || find "$store" -maxdepth 1 -type f \
    \( -name '*.part' -printf 'part\0%f %b\0' -o -printf 'stored\0%f\0' \)
cd -- "$hosted/$project" 2>/dev/null || exit 0
if [ -e .kvm-compose/home ]; then printf 'home\0%s\0' "$(cat .kvm-compose/home)"; fi
if [ -e .kvm-compose/delivered.json ]; then printf 'notes\0%s\0' "$(cat .kvm-compose/delivered.json)"; fi
[ -d artefacts ] || exit 0
find -L artefacts -type f -printf 'file\0artefacts/%P\0'
find artefacts -type l -printf 'link\0%l\nartefacts/%P\0'
"""

#: Arguments: folder of all projects, store, project, home. Runs as root; the calling user owns the project.
#: What is neither in ``artefacts`` nor our own may be a guest's, who could put a link in a folder's place.
_CREATE = """\
folder=$1/$3 private=$1/$3/.kvm-compose
install -d -m 755 -- "$1" "$2" || exit
install -d -m 755 -o "${SUDO_UID:-0}" -- "$folder" "$private" "$folder/artefacts" || exit
find "$private" "$folder/artefacts" -type d -exec chown -h "${SUDO_UID:-0}" {} + || exit
printf %s "$4" >"$private/home.part" && mv -fT -- "$private/home.part" "$private/home"
"""

#: Arguments as for dd(1). Only the owner may read a blob in transfer.
_DD = 'umask 077 && exec dd "$@"'
_DD_WORDS = ("bs=1M", "iflag=fullblock", "oflag=seek_bytes", "conv=notrunc", "status=none")

#: Arguments: part, target, mode, length, digest, whether the target is in the store. There another main host
#: may have put it meanwhile.
_FINISH = """\
umask 022
if [ "$6" = yes ] && [ -e "$2" ]; then rm -f -- "$1"; exit; fi
truncate -s "$4" -- "$1" || exit
sum=$(sha256sum <"$1") || exit
if [ "${sum%% *}" != "$5" ]; then rm -f -- "$1"; exit 65; fi
mkdir -p -- "${2%/*}" && chmod "$3" "$1" && sync "$1" && mv -fT -- "$1" "$2"
"""

#: Arguments: folder of the project, then the paths of the files 0, 1, … of the archive on standard input;
#: "sums" ends it. The records of replaced files are removed first ("before"), those of new ones come last
#: ("after").
_UNPACK = """\
umask 022
cd -- "$1/.kvm-compose" || exit
shift
rm -rf incoming && mkdir -m 700 incoming && cd incoming && tar -x --no-same-owner -f - || exit
sha256sum --status -c sums || exit 65
mv -fT before ../delivered.json || exit
number=0
for path; do
    goal=../../$path
    mkdir -p -- "${goal%/*}" && mv -fT -- "$number" "$goal" || exit
    number=$((number + 1))
done
sync -f . && mv -fT after ../delivered.json && rm -rf ../incoming
"""

#: Arguments: path, length. A broken connection ends standard input early, and looks like any other end.
_WRITE = 'cat >"$1.part" && [ "$(stat -c %s -- "$1.part")" = "$2" ] && mv -fT -- "$1.part" "$1"'

#: Arguments: target, path, target, path, …
_LINK = """\
umask 022
while [ $# -gt 0 ]; do
    mkdir -p -- "${2%/*}" && ln -sfT -- "$1" "$2" || exit
    shift 2
done
"""

#: Arguments: folder of all projects, store, digests. Removes those that no artefact is a link to.
_SWEEP = """\
hosted=$1 store=$2
shift 2
used=$(
    for each in "$hosted"/*/artefacts; do
        [ ! -d "$each" ] || find "$each" -type l -printf '%l\\n' || exit
    done
) || exit
for each; do
    case "
$used
" in *"
$store/$each
"*) ;; *) rm -f -- "$store/$each" ;; esac
done
"""


class StoreListing(msgspec.Struct, frozen=True):
    """What the host has. ``missing`` are programs, ``home`` is the main host and folder of the project."""

    missing: list[str]
    home: str | None
    inventory: Inventory

    @staticmethod
    def parse(words: Iterable[str], store: Path) -> StoreListing:
        """Read what _LIST prints."""
        found: dict[str, list[str]] = defaultdict(list)
        rest = iter(words)
        for kind in rest:
            found[kind].append(next(rest))
        parts = (each.split() for each in found["part"])
        targets = (each.partition("\n") for each in found["link"])
        links = {path: Path(target).name for target, _, path in targets if Path(target).parent == store}
        notes = decode_notes("".join(found["notes"]).encode())
        inventory = Inventory(
            stored=frozenset(found["stored"]),
            parts={name.removesuffix(".part"): int(blocks) * _BLOCK for name, blocks in parts},
            # a record counts while its file exists; a link says by itself what it points to
            delivered={path: links.get(path) or notes.get(path, "") for path in found["file"]},
            linked=frozenset(links),
            room=int("".join(found["room"]) or 0),
        )
        return StoreListing(found["missing"], next(iter(found["home"]), None), inventory)


class StoreCommands:
    """The commands, one method each; each may be repeated. They raise DriverError.

    With ``patient``, a host that is lost is waited for, up to PATIENCE seconds per command.
    """

    def __init__(self, runner: CommandRunner, hosted: Path, store: Path, *, patient: bool = False) -> None:
        self._runner = runner
        self._hosted, self._store = hosted, store
        self._patient = patient

    # -- paths

    def folder(self, project: str) -> Path:
        if not re.search(PROJECT_PATTERN, project):
            raise DriverError(f"invalid project name: {project!r}")
        return self._hosted / project

    def blob(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise DriverError(f"invalid SHA-256: {digest!r}")
        return self._store / digest

    def part(self, digest: str, target: Path) -> Path:
        """Return where a blob is kept in transfer: near its target, in a folder that exists."""
        if target.parent == self._store:
            return self._store / f"{digest}.part"
        return self._hosted / target.relative_to(self._hosted).parts[0] / PRIVATE / f"{digest}.part"

    @staticmethod
    def inside(folder: Path, path: str) -> Path:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
            raise DriverError(f"{path!r} is not a path inside the project")
        return folder / path

    # -- the store

    async def listing(self, project: str) -> StoreListing:
        done = await self._script(_LIST, self._hosted, self._store, self.folder(project).name, *_PROGRAMS)
        return StoreListing.parse(_words(done), self._store)

    async def is_stored(self, digest: str) -> bool:
        """Return whether a blob is in the store. One that has its name there is complete."""
        return (await self._run(["test", "-e", str(self.blob(digest))], check=False)).status == 0

    # -- projects

    async def create(self, project: str, home: str) -> None:
        """Create store and project folder, unless they exist, and record whose project it is."""
        await self._script(
            _CREATE, self._hosted, self._store, self.folder(project).name, home, privileged=True
        )

    async def link(self, folder: Path, links: Mapping[str, str]) -> None:
        """Make paths links into the store: path -> digest. Derived blobs that are replaced are removed."""
        words = [(self.blob(digest), self.inside(folder, path)) for path, digest in links.items()]
        going = await self._derived(folder) - set(links.values())
        await self._note_going(folder, going)
        await self._script(_LINK, *(word for pair in words for word in pair))
        await self._sweep(folder, going)

    async def clear(self, folder: Path) -> None:
        """Remove a project's folder and its derived blobs; if interrupted, the next call finishes it."""
        derived = await self._derived(folder)
        await self._note_going(folder, derived)
        if derived:
            rest = ["-mindepth", "1", "-maxdepth", "1", "!", "-name", PRIVATE]
            argv = ["find", str(folder), *rest, "-exec", "rm", "-rf", "--", "{}", "+"]
            await self._run(argv, privileged=True)
        await self._sweep(folder, derived)
        await self._run(["rm", "-rf", "--", str(folder)], privileged=True)

    async def _derived(self, folder: Path) -> set[str]:
        """Blobs that were made for the project, as golden images are, and those that must go already.

        Unmodified images are not among them: another project may need them.
        """
        argv = ["find", str(folder / ARTEFACTS), "-type", "l", "-printf", rf"{ARTEFACTS}/%P\0%l\0"]
        words = _words(await self._run(argv, check=False))
        links = [(path, Path(target)) for path, target in zip(words[::2], words[1::2], strict=True)]
        found = {
            target.name for path, target in links if target.parent == self._store and not _is_unmodified(path)
        }
        done = await self._run(["cat", "--", str(folder / _GOING)], check=False)
        try:
            return found | msgspec.json.decode(done.stdout, type=set[str])
        except msgspec.MsgspecError:
            return found

    async def _note_going(self, folder: Path, digests: Collection[str]) -> None:
        """Record which blobs are to be removed, so that they are even if this is interrupted."""
        if digests:
            await self._write(folder / _GOING, msgspec.json.encode(sorted(digests)), privileged=True)

    async def _sweep(self, folder: Path, digests: Collection[str]) -> None:
        if digests:
            await self._script(_SWEEP, self._hosted, self._store, *sorted(digests), privileged=True)
            await self._run(["rm", "-f", "--", str(folder / _GOING)], privileged=True)

    async def notes(self, folder: Path) -> dict[str, str]:
        """Read the record of what was delivered: path -> digest."""
        return decode_notes((await self._run(["cat", "--", str(folder / _NOTES)], check=False)).stdout)

    async def write_notes(self, folder: Path, notes: Mapping[str, str]) -> None:
        await self._write(folder / _NOTES, encode_notes(notes))

    async def unpack(self, folder: Path, paths: Iterable[str], archive: bytes) -> Completed:
        """Verify the files of an archive, and put them in their places."""
        return await self._script(_UNPACK, folder, *paths, stdin=archive, seconds=_PIECE_SECONDS, check=False)

    async def remove(self, path: Path) -> None:
        await self._run(["rm", "-f", "--", str(path)])

    async def measure(self, path: Path) -> FileSize:
        """Return the size of a regular file that is no link."""
        argv = ["find", str(path), "-maxdepth", "0", "-type", "f", "-printf", "%s %b"]
        done = await self._run(argv, privileged=True, check=False)
        words = done.text.split()
        if done.status != 0 or len(words) != 2:  # noqa: PLR2004 (length and blocks)
            raise DriverError(f"{path} on {self._runner.name} is not there, or no regular file")
        return FileSize(int(words[0]), int(words[1]) * _BLOCK)

    async def digest(self, path: Path, size: int) -> str:
        argv = ["sh", "-c", 'sha256sum <"$1"', "sh", str(path)]
        done = await self._run(argv, privileged=True, seconds=60 + size / _SLOWEST)
        found = done.text.partition(" ")[0]
        if not _DIGEST.fullmatch(found):
            raise DriverError(f"sha256sum on {self._runner.name} printed no SHA-256 of {path}")
        return found

    async def read_piece(self, path: Path, offset: int, length: int) -> bytes:
        """Return a piece of a file of root's; less than ``length`` bytes at its end."""
        words = ["bs=1M", "iflag=skip_bytes,count_bytes,fullblock,nofollow", "status=none"]
        argv = ["dd", f"if={path}", *words, f"skip={offset}", f"count={length}"]
        return (await self._run(argv, privileged=True, seconds=_PIECE_SECONDS)).stdout

    # -- transfers

    async def arrived(self, part: Path) -> int:
        done = await self._run(["stat", "--format=%s", "--", str(part)], check=False)
        return int(done.text) if done.status == 0 else 0

    async def write_piece(self, part: Path, offset: int, data: bytes, *, privileged: bool) -> None:
        argv = ["sh", "-c", _DD, "dd", f"of={part}", *_DD_WORDS, f"seek={offset}"]
        await self._run(argv, stdin=data, seconds=_PIECE_SECONDS, privileged=privileged)

    async def finish(
        self, part: Path, target: Path, mode: int, size: int, digest: str, *, shared: bool
    ) -> Completed:
        """Verify a part, and put it in its place. ``shared``: in the store, which is root's."""
        words = (part, target, f"{mode:o}", size, digest, "yes" if shared else "no")
        seconds = 60 + size / _SLOWEST
        return await self._script(_FINISH, *words, seconds=seconds, privileged=shared, check=False)

    # -- commands

    async def program(self, source: str, *words: str | Path, stdin: bytes | None) -> Completed:
        """Run a program in Python as root, which may fail. It has the standard library only."""
        argv = ["python3", "-I", "-S", "-X", "utf8", "-c", source, *map(str, words)]
        done = await self._run(argv, stdin=stdin, seconds=_PIECE_SECONDS, privileged=True, check=False)
        if is_not_installed(done):
            raise not_installed("python3", self._runner.name)
        return done

    async def _write(self, path: Path, content: bytes, *, privileged: bool = False) -> None:
        await self._script(_WRITE, path, len(content), stdin=content, privileged=privileged)

    async def _script(self, script: str, *words: str | int | Path, **options: Any) -> Completed:
        return await self._run(["sh", "-c", script, "sh", *map(str, words)], **options)

    async def _run(self, argv: list[str], **options: Any) -> Completed:
        end: float | None = None
        while True:
            try:
                return await self._runner.run(argv, **options)
            except HostLostError:
                end = end or time.monotonic() + PATIENCE  # counts from the loss, however long it ran
                if not self._patient or time.monotonic() > end:
                    raise
                await asyncio.sleep(_PAUSE)


def encode_notes(notes: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(notes, order="deterministic")


def decode_notes(text: bytes) -> dict[str, str]:
    """Decode that record; an incomplete one counts as empty."""
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError:
        return {}


def _words(done: Completed) -> list[str]:
    return done.text.split("\0")[:-1]


def _is_unmodified(path: str) -> bool:
    return path.startswith("artefacts/images/") or path.endswith("-media.iso")
