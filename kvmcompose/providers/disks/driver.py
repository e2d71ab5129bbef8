"""Files of projects on a host: the link to a project's folder, and disk images.

Programs do all the work, so that it also works on files of root's and on other hosts.
"""

from __future__ import annotations

import asyncio
import shlex
import uuid
from collections.abc import Sequence
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.hosts.command import CommandRunner, Completed, failure
from kvmcompose.hosts.errors import DriverError
from kvmcompose.images import qcow2
from kvmcompose.providers.disks.console_text import TextSearch

#: Where hosts find projects, wherever their folders are (``project_folder`` in the state).
PROJECTS = Path("/var/lib/kvm-compose")
CONSOLES = Path(".kvm-compose", "consoles")

_TAIL_BYTES = 1 << 18
#: How much of a console is searched at a time, in bytes, and how long more of it is waited for, in seconds.
_SEARCHED, _SEARCH_SECONDS, _PAUSE_SECONDS = 1 << 16, 5, 0.2
#: Follows no link, and does not wait for a pipe.
_DD_FLAGS = "iflag=skip_bytes,count_bytes,fullblock,nofollow,nonblock"
_NO_FILE = "No such file or directory"
_NO_FOLDER = "Not a directory"
#: Exit status of the scripts below when they find a link; they print which.
_A_LINK = 66
#: A project's folders in which files are changed. Those above them are up to the project's owner.
_INNER = ("artefacts", ".kvm-compose")
#: Arguments: folder of the project, relative path to a folder in it, file name. Enters that folder without
#: following a link; a later replacement of the folder has no effect. stat reports what does not exist.
_ENTER = """\
stat -- "$1/$2/$3" >/dev/null || exit
cd -P -- "$1" || exit
top=${PWD%/}
cd -P -- "./$2" || exit
if [ "$PWD" != "$top${2:+/$2}" ]; then printf %s "${2%/}"; exit 66; fi
"""
#: Then checks that the name is a regular file with no other hard link.
_CHECK = """\
here=$(stat --format="%F:%h:%d:%i" -- "./$3") || exit
case $here in
    "regular file:1:"* | "regular empty file:1:"*) ;;
    *) printf %s "${2:+$2/}$3"; exit 66 ;;
esac
"""
#: Then opens it, and checks that it is still the same file.
_OPEN = """\
exec 3<"./$3"
if [ "$(stat -L --format="%F:%h:%d:%i" /proc/self/fd/3)" != "$here" ]; then printf %s "$3"; exit 66; fi
"""
_CHANGE_MODE = _ENTER + _CHECK + _OPEN + 'chmod "$4" /proc/self/fd/3'
_READ_TAIL = _ENTER + _CHECK + _OPEN + 'tail -c "$4" <&3'
#: Prints where the part begins, then at most $5 bytes: from offset $4, or the end of the file for -1.
_READ_FROM = (
    _ENTER
    + _CHECK
    + _OPEN
    + """\
size=$(stat -L --format=%s /proc/self/fd/3) || exit
start=$4
if [ "$start" -eq "$size" ] && [ "$6" -gt 0 ]; then
    # tail waits for events of the file; what it prints is read below
    timeout "$6" tail -f -c "+$((start + 1))" -- "./$3" 2>/dev/null | head -c 1 >/dev/null
    size=$(stat -L --format=%s /proc/self/fd/3) || exit
fi
[ "$start" -le "$size" ] || start=0
[ "$start" -ge 0 ] || start=$((size > $5 ? size - $5 : 0))
echo "$start"
tail -c "+$((start + 1))" <&3 | head -c "$5"
"""
)
_REMOVE = _ENTER + 'rm -f -- "./$3"'
#: libvirt makes a missing file by way of another one, for which it would follow a link.
_READY_NVRAM = (
    _ENTER.replace("$1/$2/$3", "$1/$2")
    + """\
rm -f -- "./$3.new" || exit
if [ -n "$4" ]; then rm -f -- "./$3" || exit; fi
if [ ! -e "./$3" ] && [ ! -L "./$3" ]; then exit; fi
"""
    + _CHECK
    + """\
if [ ! -s "./$3" ]; then rm -f -- "./$3"; fi
"""
)
#: A disk of which a guest writes every byte is never given to qemu-img, which would look for a format.
#: Libvirt leaves it to QEMU's user, whose file it need not open to see how long it is. Several guests may
#: start with it at a time: an empty file may be another kind of file when it is opened.
_READY_RAW = (
    _ENTER
    + _CHECK
    + """\
[ "$(stat --format=%s -- "./$3")" -lt "$4" ] || exit 0
exec 3<"./$3"
if [ "$(stat -L --format="%h:%d:%i" /proc/self/fd/3)" != "${here#*:}" ]; then printf %s "$3"; exit 66; fi
truncate -s ">$4" /proc/self/fd/3
"""
)
#: Gives the staged file ($4) the mode and owner of the file, and replaces it. Only root can change the owner;
#: for anyone else the file is their own already.
_REPLACE = (
    _ENTER
    + _CHECK
    + """\
chmod --reference="./$3" -- "./$4" || exit
chown --reference="./$3" -- "./$4" 2>/dev/null
mv -fT -- "./$4" "./$3"
"""
)
_GROW = _ENTER + _CHECK + 'shift 3\nexec "$@"'
#: Arguments: folder, and paths in it at which folders are created.
_MAKE_CONSOLES = """\
cd -- "$1" || exit
shift
for each; do
    if [ -L "$each" ]; then printf %s "$each"; exit 66; fi
    [ -d "$each" ] || mkdir -- "$each" || [ -d "$each" ] || exit
done
for each in .kvm-compose/consoles/* .kvm-compose/consoles/.[!.]*; do
    if [ -L "$each" ]; then printf %s "$each"; exit 66; fi
done
"""


class HostDisks:
    """Files on one host. ``projects`` is where the links to projects are."""

    def __init__(self, runner: CommandRunner, projects: Path = PROJECTS) -> None:
        self._runner = runner
        self._projects = projects

    async def link_project(self, project: str, folder: Path, before: Path | None = None) -> None:
        """Link ``/var/lib/kvm-compose/<project>`` to the folder, and create a folder for consoles in it.

        A link to a folder that was moved away is replaced. Root checks that, because a folder that we may not
        enter exists all the same.
        """
        folder = await self._resolved(folder)
        link = self._link(project)
        current = await self._target(link)
        if current != folder:
            if current not in (None, before) and current is not None and not await self._is_gone(current):
                raise DriverError(
                    f"another project on {self._runner.name} is named {project}: {link} points to {current},"
                    f" not to {folder}",
                    hint=f"bring that one down first, or remove the link: sudo rm {link}",
                )
            await self._make_link(link, folder)
        await self._make_consoles(folder)

    async def linked_folder(self, project: str, folders: Sequence[Path]) -> Path | None:
        target = await self._target(self._link(project))
        if target is None:
            return None
        for folder in folders:
            if target == await self._resolved(folder):
                return folder
        return None

    async def unlink_project(self, project: str, folder: Path) -> None:
        link = self._link(project)
        if await self._target(link) == await self._resolved(folder):
            await self._runner.run(["rm", "-f", "--", str(link)], privileged=True)

    async def pristine(self, path: Path) -> bool:
        """Return whether a disk has no allocated clusters; False for one that is not qcow2."""
        head = await self._bytes(path, 0, qcow2.HEAD_BYTES)
        try:
            table = qcow2.l1_table(head)
        except ValueError as error:
            raise DriverError(f"{path} is not a valid qcow2 image: {error}") from error
        if table is None:
            return False
        content = await self._bytes(path, table.offset, table.length) if table.length else b""
        return len(content) == table.length and not any(content)

    async def reset_overlay(self, path: Path, *, blank: bool = False) -> None:
        head = await self._bytes(path, 0, qcow2.HEAD_BYTES)
        try:
            header = qcow2.parse_header(head)
        except (ValueError, KvmComposeError) as error:
            raise DriverError(f"{path} is not a valid qcow2 image: {error}") from error
        if header is None or (header.backing_file is None and not blank):
            raise DriverError(
                f"{path} is not an overlay: its content exists nowhere else",
                hint="kvm-compose generate --provision rebuilds the disk",
            )
        staged = path.with_name(f".kvm-compose-staged-{uuid.uuid4().hex}")
        backing = (
            ["-b", header.backing_file, "-F", header.backing_format or "qcow2"] if header.backing_file else []
        )
        create = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, "--", str(staged)]
        try:
            await self._runner.run([*create, str(header.virtual_size)])
            argv = _inside(_REPLACE, path, staged.name)
            self._expect(path, argv, await self._runner.run(argv, check=False))
        except BaseException:
            await self._runner.run(["rm", "-f", "--", str(staged)], check=False)
            raise

    async def replace(self, path: Path, staged: Path) -> None:
        near = path.with_name(f".kvm-compose-staged-{uuid.uuid4().hex}")
        try:
            await self._runner.run(["mv", "-fT", "--", str(staged), str(near)], privileged=True)
            argv = _inside(_REPLACE, path, near.name)
            done = await self._runner.run(argv, privileged=True, check=False)
            self._expect(path, argv, done, privileged=True)
        except BaseException:
            await self._runner.run(["rm", "-f", "--", str(near)], privileged=True, check=False)
            raise

    async def header(self, path: Path) -> qcow2.ImageHeader:
        head = await self._bytes(path, 0, qcow2.HEAD_BYTES)
        try:
            header = qcow2.parse_header(head)
        except ValueError as error:
            raise DriverError(f"{path} is not a valid qcow2 image: {error}") from error
        if header is None:
            raise DriverError(f"{path} is not a qcow2 image")
        return header

    async def grow(self, path: Path, size: int) -> None:
        argv = _inside(_GROW, path, *qcow2.resize_command(f"./{path.name}", size))
        done = await self._as_needed(argv)
        if qcow2.IN_USE in done.stderr.decode(errors="replace"):
            raise DriverError(f"{path} cannot grow while its guest runs", hint="kvm-compose down")
        self._expect(path, argv, done, privileged=True)

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Revoke everybody's permission to write, or grant it to the owner (and to nobody else)."""
        argv = _inside(_CHANGE_MODE, path, "a-w" if frozen else "u+w")
        done = await self._as_needed(argv)
        self._expect(path, argv, done, privileged=True)

    async def signature(self, path: Path) -> str:
        """Return inode, modification time in nanoseconds, and size of a file."""
        done = await self._runner.run(["stat", "--format=%i %.9Y %s", "--", str(path)], check=False)
        if done.status != 0:
            raise self._missing(path, done)
        return done.text.strip()

    async def ready_nvram(self, path: Path, *, fresh: bool) -> None:
        argv = _inside(_READY_NVRAM, path, "yes" if fresh else "")
        done = await self._as_needed(argv)
        self._expect(path, argv, done, privileged=True)

    async def ready_raw(self, path: Path, size: int) -> None:
        argv = _inside(_READY_RAW, path, str(size))
        done = await self._as_needed(argv)
        self._expect(path, argv, done, privileged=True)

    async def length(self, path: Path) -> int:
        argv = ["stat", "--format=%s", "--", str(path)]
        done = await self._as_needed(argv)
        if done.status != 0:
            raise self._missing(path, done)
        return int(done.text)

    async def remove(self, path: Path) -> None:
        argv = _inside(_REMOVE, path)
        done = await self._as_needed(argv)
        if not _is_nothing(done):
            self._expect(path, argv, done, privileged=True)

    async def read_from(
        self, path: Path, after: int | None, most: int, *, wait: int = 0
    ) -> tuple[int, bytes]:
        argv = _inside(_READ_FROM, path, str(-1 if after is None else after), str(most), str(wait))
        done = await self._as_needed(argv)
        if _is_nothing(done):
            return 0, b""
        self._expect(path, argv, done, privileged=True)
        start, _, part = done.stdout.partition(b"\n")
        return int(start), part

    async def wait_for_text(self, path: Path, text: str) -> None:
        search, offset = TextSearch(text), 0
        while True:
            start, part = await self.read_from(path, offset, _SEARCHED, wait=_SEARCH_SECONDS)
            if start < offset:  # the guest was started again, or its log has become too long
                search = TextSearch(text)
            if search.feed(part):
                return
            offset = start + len(part)
            if not part:  # as of a file that is not there yet
                await asyncio.sleep(_PAUSE_SECONDS)

    async def read_tail(self, path: Path, lines: int) -> str:
        argv = _inside(_READ_TAIL, path, str(_TAIL_BYTES))
        done = await self._as_needed(argv)
        if _is_nothing(done):
            return ""
        self._expect(path, argv, done, privileged=True)
        return "".join(done.text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    async def _as_needed(self, argv: list[str]) -> Completed:
        """Run it with our own rights and, if they do not suffice, as root."""
        done = await self._runner.run(argv, check=False)
        if done.status in (0, _A_LINK) or _is_nothing(done):
            return done
        return await self._runner.run(argv, privileged=True, check=False)

    def _expect(self, path: Path, argv: list[str], done: Completed, *, privileged: bool = False) -> None:
        """Raise DriverError for a failure."""
        if done.status == _A_LINK:
            there = _folder_of(path) / done.text
            away = f"mv {shlex.quote(str(there))} {shlex.quote(f'{there}.found')}"
            raise DriverError(
                f"{there} on {self._runner.name} is a link, or not a regular file: it is left alone",
                hint=f"inspect it, and move it away: {away}",
            )
        if done.status != 0:
            raise failure(argv, done, self._runner.name, privileged=privileged)

    def _link(self, project: str) -> Path:
        if project in {"", ".", ".."} or "/" in project:
            raise DriverError(f"invalid project name: {project!r}")
        return self._projects / project

    async def _make_link(self, link: Path, folder: Path) -> None:
        """Create the link under another name and rename it, so that there is a link at any time."""
        await self._runner.run(["mkdir", "-p", "-m", "755", "--", str(self._projects)], privileged=True)
        staged = self._projects / f".{link.name}-{uuid.uuid4().hex}"
        await self._runner.run(["ln", "-s", "--", str(folder), str(staged)], privileged=True)
        try:
            await self._runner.run(["mv", "-fT", "--", str(staged), str(link)], privileged=True)
        except BaseException:
            await self._runner.run(["rm", "-f", "--", str(staged)], privileged=True, check=False)
            raise

    async def _resolved(self, folder: Path) -> Path:
        """Return the folder with all links resolved, even if it does not exist."""
        argv = ["realpath", "-m", "--", str(folder)]
        done = await self._runner.run(argv, check=False)
        if done.status != 0:  # in a folder that we may not enter
            done = await self._runner.run(argv, privileged=True)
        return Path(done.text.removesuffix("\n"))

    async def _target(self, link: Path) -> Path | None:
        """Return the target of the link; None when there is nothing of that name."""
        argv = ["stat", "--format=%F", "--", str(link)]
        done = await self._runner.run(argv, check=False)
        if done.status != 0:
            if _NO_FILE in done.complaint:
                return None
            raise failure(argv, done, self._runner.name)
        if done.text.strip() != "symbolic link":
            raise DriverError(
                f"{link} on {self._runner.name} is a {done.text.strip()}, not a link to a project",
                hint=f"move it away: sudo mv {link} {link}.away",
            )
        return await self._resolved(link)

    async def _make_consoles(self, folder: Path) -> None:
        """Create the folder for consoles. QEMU writes there as root, and must not follow a link."""
        argv = ["sh", "-c", _MAKE_CONSOLES, "sh", str(folder), *map(str, (CONSOLES.parent, CONSOLES))]
        done = await self._runner.run(argv, check=False)
        if done.status == _A_LINK:
            raise DriverError(
                f"{folder / done.text.strip()} on {self._runner.name} is a link, and consoles of guests"
                " would be written to its target",
                hint=f"remove it: rm {folder / done.text.strip()}",
            )
        if done.status != 0:
            raise failure(argv, done, self._runner.name)

    async def _is_gone(self, path: Path) -> bool:
        """Return whether root finds nothing there: what we may not inspect is not gone."""
        argv = ["stat", "--format=%F", "--", str(path)]
        done = await self._runner.run(argv, privileged=True, check=False)
        if done.status != 0 and not _is_nothing(done):
            raise failure(argv, done, self._runner.name, privileged=True)
        return done.status != 0

    async def _bytes(self, path: Path, offset: int, length: int) -> bytes:
        argv = [
            "dd", f"if={path}", "status=none", "bs=64K", _DD_FLAGS,
            f"skip={offset}", f"count={length}",
        ]  # fmt: skip
        done = await self._runner.run(argv, check=False)
        if done.status != 0 and "ermission denied" in done.complaint:
            done = await self._runner.run(argv, privileged=True, check=False)
        if done.status != 0:
            raise self._missing(path, done)
        return done.stdout

    def _missing(self, path: Path, done: Completed) -> DriverError:
        if _NO_FILE in done.complaint:
            return DriverError(
                f"{path} does not exist on {self._runner.name}", hint="kvm-compose generate builds artefacts"
            )
        return DriverError(f"cannot read {path} on {self._runner.name}: {done.complaint}")


def _folder_of(path: Path) -> Path:
    """Return the project's folder that has a file in one of its inner folders; else the file's own folder."""
    return next((each.parent for each in path.parents if each.name in _INNER), path.parent)


def _inside(script: str, path: Path, *words: str) -> list[str]:
    """Return a command that runs a script on a file, and follows no link to it. See ``_ENTER``."""
    folder = _folder_of(path)
    way = path.parent.relative_to(folder).parts
    return ["sh", "-c", script, "sh", str(folder), "/".join(way), path.name, *words]


def _is_nothing(done: Completed) -> bool:
    """Return whether it failed because there is no such file."""
    return done.status != 0 and any(words in done.complaint for words in (_NO_FILE, _NO_FOLDER))
