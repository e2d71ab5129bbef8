"""Disk images of guests on a host."""

from __future__ import annotations

import uuid
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.hosts.command import CommandRunner, Completed
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.guarded_files import CHECK, ENTER, NO_FILE, OPEN, as_needed, expect, inside, is_nothing
from kvmcompose.images import qcow2

#: Follows no link, and does not wait for a pipe.
_DD_FLAGS = "iflag=skip_bytes,count_bytes,fullblock,nofollow,nonblock"
_CHANGE_MODE = ENTER + CHECK + OPEN + 'chmod "$4" /proc/self/fd/3'
_REMOVE = ENTER + 'rm -f -- "./$3"'
#: libvirt makes a missing file by way of another one, for which it would follow a link.
_READY_NVRAM = (
    ENTER.replace("$1/$2/$3", "$1/$2")
    + """\
rm -f -- "./$3.new" || exit
if [ -n "$4" ]; then rm -f -- "./$3" || exit; fi
if [ ! -e "./$3" ] && [ ! -L "./$3" ]; then exit; fi
"""
    + CHECK
    + """\
if [ ! -s "./$3" ]; then rm -f -- "./$3"; fi
"""
)
#: A disk of which a guest writes every byte is never given to qemu-img, which would look for a format.
#: Libvirt leaves it to QEMU's user, whose file it need not open to see how long it is. Several guests may
#: start with it at a time: an empty file may be another kind of file when it is opened.
_READY_RAW = (
    ENTER
    + CHECK
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
    ENTER
    + CHECK
    + """\
chmod --reference="./$3" -- "./$4" || exit
chown --reference="./$3" -- "./$4" 2>/dev/null
mv -fT -- "./$4" "./$3"
"""
)
_GROW = ENTER + CHECK + 'shift 3\nexec "$@"'


class HostDisks:
    """See ``Disks``."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

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
            argv = inside(_REPLACE, path, staged.name)
            expect(self._runner, path, argv, await self._runner.run(argv, check=False))
        except BaseException:
            await self._runner.run(["rm", "-f", "--", str(staged)], check=False)
            raise

    async def replace(self, path: Path, staged: Path) -> None:
        near = path.with_name(f".kvm-compose-staged-{uuid.uuid4().hex}")
        try:
            await self._runner.run(["mv", "-fT", "--", str(staged), str(near)], privileged=True)
            argv = inside(_REPLACE, path, near.name)
            done = await self._runner.run(argv, privileged=True, check=False)
            expect(self._runner, path, argv, done, privileged=True)
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
        argv = inside(_GROW, path, *qcow2.resize_command(f"./{path.name}", size))
        done = await as_needed(self._runner, argv)
        if qcow2.IN_USE in done.stderr.decode(errors="replace"):
            raise DriverError(f"{path} cannot grow while its guest runs", hint="kvm-compose down")
        expect(self._runner, path, argv, done, privileged=True)

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Revoke everybody's permission to write, or grant it to the owner (and to nobody else)."""
        argv = inside(_CHANGE_MODE, path, "a-w" if frozen else "u+w")
        done = await as_needed(self._runner, argv)
        expect(self._runner, path, argv, done, privileged=True)

    async def signature(self, path: Path) -> str:
        """Return inode, modification time in nanoseconds, and size of a file."""
        done = await self._runner.run(["stat", "--format=%i %.9Y %s", "--", str(path)], check=False)
        if done.status != 0:
            raise self._missing(path, done)
        return done.text.strip()

    async def ready_nvram(self, path: Path, *, fresh: bool) -> None:
        argv = inside(_READY_NVRAM, path, "yes" if fresh else "")
        done = await as_needed(self._runner, argv)
        expect(self._runner, path, argv, done, privileged=True)

    async def ready_raw(self, path: Path, size: int) -> None:
        argv = inside(_READY_RAW, path, str(size))
        done = await as_needed(self._runner, argv)
        expect(self._runner, path, argv, done, privileged=True)

    async def length(self, path: Path) -> int:
        argv = ["stat", "--format=%s", "--", str(path)]
        done = await as_needed(self._runner, argv)
        if done.status != 0:
            raise self._missing(path, done)
        return int(done.text)

    async def remove(self, path: Path) -> None:
        argv = inside(_REMOVE, path)
        done = await as_needed(self._runner, argv)
        if not is_nothing(done):
            expect(self._runner, path, argv, done, privileged=True)

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
        if NO_FILE in done.complaint:
            return DriverError(
                f"{path} does not exist on {self._runner.name}", hint="kvm-compose generate builds artefacts"
            )
        return DriverError(f"cannot read {path} on {self._runner.name}: {done.complaint}")
