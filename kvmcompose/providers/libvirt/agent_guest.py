"""Commands and files in a guest, by its guest agent: ``guest-exec`` and ``guest-file-*``.

An agent has no streams. It keeps all that a command prints in its memory until that has ended, and then
returns it in one answer. So, where the guest has a shell, the output goes to a file in the guest, and is read
from there while the command runs; the input is a file, too, written before the command starts. Windows
has what an agent has.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import secrets
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from kvmcompose.hosts.errors import AgentSilentError, DriverError
from kvmcompose.hosts.lines import Pieces
from kvmcompose.providers.libvirt.agent import AgentCommand, typed
from kvmcompose.providers.libvirt.interface.agents import DomainAgents

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

#: How much a command may print, and is given to read, in bytes: it takes room in the guest's /tmp.
MOST_OUTPUT, MOST_INPUT = 64 << 20, 64 << 20
#: The same on Windows, where an answer of the agent, and a command for it, has all of it.
MOST_WINDOWS_INPUT = 1 << 20
#: How much is read or written at a time, in bytes: an emulated guest takes some 0.1 s for it.
_PIECE = 48 << 10
#: How long to wait before an agent is asked again about a command, in seconds: the shortest and the longest.
_SOON, _LATE, _LATER = 0.05, 1.0, 1.5
#: How long ending a command may take, in seconds.
_END_SECONDS = 20.0
_WINDOWS = "mswindows"
#: As lseek(2) calls it: agents before QEMU 2.6 know no word for it.
_FROM_HERE = 1

#: Arguments: the files for output and input, then those of the script that follows. The command has the umask
#: of the agent; what it prints is for root alone.
_REDIRECT = """\
mask=$(umask); umask 077; set -C; exec >"$1" 2>&1 <"$2" || exit; set +C; umask "$mask"; shift 2
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}" HOME="${HOME:-/root}"
cd 2>/dev/null || cd /
"""
_NEW_FILE = 'umask 077; set -C; : >"$1"'


class _Started(msgspec.Struct):
    pid: int


class _Status(msgspec.Struct):
    exited: bool
    exitcode: int | None = None
    signal: int | None = None
    out: str = msgspec.field(name="out-data", default="")
    err: str = msgspec.field(name="err-data", default="")


class _Part(msgspec.Struct):
    count: int
    eof: bool
    data: str = msgspec.field(name="buf-b64", default="")


class _System(msgspec.Struct):
    id: str = ""


class ShellScripts(msgspec.Struct, frozen=True):
    """Scripts for the guest's shell: ``start`` runs its arguments, ``end`` ends what has a mark.

    The mark is in the first line of what was started, and the standard input of the words ``end``.
    """

    start: str
    end: tuple[str, ...]


class AgentGuest:
    """A guest whose agent runs commands in it, as root, or as SYSTEM. ``name`` is that of its domain."""

    def __init__(self, agents: DomainAgents, name: str, scripts: ShellScripts) -> None:
        self._agents = agents
        self._scripts = scripts
        self._windows: bool | None = None
        self.name = name

    async def ask(self, execute: str, wanted: type[_Answer], **arguments: Any) -> _Answer:
        """Return the answer of the agent. In names of ``arguments``, underscores stand for hyphens.

        Raises DriverError.
        """
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        command = AgentCommand(execute=execute, arguments=given)
        return typed(self.name, execute, await self._agents.ask(self.name, command), wanted)

    async def is_windows(self) -> bool:
        """Return whether the guest has Windows, and so no shell of Unix."""
        if self._windows is None:
            try:
                self._windows = (await self.ask("guest-get-osinfo", _System)).id == _WINDOWS
            except DriverError:
                # it does not know the command, as before QEMU 2.10; an agent that is gone fails again soon
                self._windows = False
        return self._windows

    async def run(
        self,
        argv: Sequence[str],
        on_data: Callable[[bytes], None],
        *,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command; return its exit status, or 128 + n when signal n ended it. Cancelling ends it.

        ``on_data`` is called with what it prints. Raises DriverError when the agent does not answer, and
        when ``seconds`` have passed or it prints too much: then it is ended.
        """
        run = _OnWindows(self) if await self.is_windows() else _InShell(self, self._scripts)
        try:
            async with asyncio.timeout(seconds):
                status = await run.follow(argv, on_data, stdin)
        except AgentSilentError:
            raise  # who does not answer ends nothing either
        except TimeoutError:
            await run.end()
            raise DriverError(f"{shlex.join(argv)} did not end within {seconds:g} s on {self.name}") from None
        except BaseException:
            await run.end()
            raise
        await run.clean()
        return status

    async def finished(self, pid: int) -> _Status:
        """Return how a command ended, once it has."""
        pause = _SOON
        while not (status := await self.ask("guest-exec-status", _Status, pid=pid)).exited:
            await asyncio.sleep(pause)
            pause = min(_LATE, pause * _LATER)
        return status


class _InShell:
    """A command in a guest with a shell and ``/tmp``."""

    def __init__(self, guest: AgentGuest, scripts: ShellScripts) -> None:
        self._guest = guest
        self._scripts = scripts
        self._mark = f"kvm-compose-{secrets.token_hex(16)}"
        self._output, self._input = f"/tmp/{self._mark}.out", f"/tmp/{self._mark}.in"  # noqa: S108 (random names)
        self._handle: int | None = None
        self._printed = 0
        self._has_files = self._runs = False

    async def follow(
        self, argv: Sequence[str], on_data: Callable[[bytes], None], stdin: Pieces | None
    ) -> int:
        self._has_files = True
        if stdin is not None:
            await self._write(stdin)
        script = f": {self._mark}\n{_REDIRECT}{self._scripts.start}"
        given = self._input if stdin is not None else "/dev/null"
        self._runs = True
        pid = await self._shell(["-c", script, "sh", self._output, given, *argv])
        pause = _SOON
        while True:
            status = await self._guest.ask("guest-exec-status", _Status, pid=pid)
            self._runs = not status.exited
            pause = _SOON if await self._read(on_data, must=status.exited) else min(_LATE, pause * _LATER)
            if status.exited:
                return _exit_status(status)
            await asyncio.sleep(pause)

    async def _shell(self, argv: Sequence[str], **arguments: Any) -> int:
        return (
            await self._guest.ask("guest-exec", _Started, path="/bin/sh", arg=list(argv), **arguments)
        ).pid

    async def _write(self, stdin: Pieces) -> None:
        """Write all of the input to a file for root alone."""
        status = await self._guest.finished(await self._shell(["-c", _NEW_FILE, "sh", self._input]))
        if _exit_status(status):
            raise DriverError(
                f"no file can be made in /tmp of {self._guest.name}", hint="is it full, or read-only?"
            )
        handle = await self._guest.ask("guest-file-open", int, path=self._input, mode="a")
        size = 0
        async for chunk in stdin:
            size += len(chunk)
            if size > MOST_INPUT:
                raise _too_much(self._guest.name, "is given more input than", MOST_INPUT)
            for start in range(0, len(chunk), _PIECE):
                data = base64.b64encode(chunk[start : start + _PIECE]).decode()
                await self._guest.ask("guest-file-write", dict, handle=handle, buf_b64=data)
        await self._guest.ask("guest-file-close", dict, handle=handle)

    async def _read(self, on_data: Callable[[bytes], None], *, must: bool) -> bool:
        """Report what was printed since; return whether there was any. ``must``: there is a file by now."""
        if self._handle is None:
            try:
                self._handle = await self._guest.ask("guest-file-open", int, path=self._output, mode="r")
            except DriverError:
                if must:
                    raise
                return False
        before = self._printed
        while True:
            part = await self._guest.ask("guest-file-read", _Part, handle=self._handle, count=_PIECE)
            data = _decoded(self._guest.name, part.data)
            self._printed += len(data)
            if self._printed > MOST_OUTPUT:
                raise _too_much(self._guest.name, "printed more than", MOST_OUTPUT)
            if data:
                on_data(data)
            if part.eof or not data:
                break
        # the end of the file is remembered until it is sought
        await self._guest.ask("guest-file-seek", dict, handle=self._handle, offset=0, whence=_FROM_HERE)
        return self._printed > before

    async def end(self) -> None:
        """End it, with all that it has started, and remove its files."""
        if self._runs:
            await self._end()
        await self.clean()

    async def _end(self) -> None:
        data = base64.b64encode(f"{self._mark}\n".encode()).decode()

        async def end() -> None:
            words = self._scripts.end
            pid = (
                await self._guest.ask(
                    "guest-exec", _Started, path="/bin/sh", arg=list(words), input_data=data
                )
            ).pid
            await self._guest.finished(pid)

        await _limited(end(), self._guest.name, "end a command")

    async def clean(self) -> None:
        if not self._has_files:
            return

        async def clean() -> None:
            if self._handle is not None:
                await self._guest.ask("guest-file-close", dict, handle=self._handle)
            await self._shell(["-c", 'rm -f "$@"', "sh", self._output, self._input])

        await _limited(clean(), self._guest.name, "remove files of a command")


class _OnWindows:
    """A command on Windows: input and output are parts of what the agent is asked, and of its answer."""

    def __init__(self, guest: AgentGuest) -> None:
        self._guest = guest
        self._pid: int | None = None

    async def follow(
        self, argv: Sequence[str], on_data: Callable[[bytes], None], stdin: Pieces | None
    ) -> int:
        given = b""
        async for chunk in stdin or _nothing():
            given += chunk
            if len(given) > MOST_WINDOWS_INPUT:
                raise _too_much(self._guest.name, "is given more input than", MOST_WINDOWS_INPUT)
        data = {"input_data": base64.b64encode(given).decode()} if stdin is not None else {}
        started = await self._guest.ask(
            "guest-exec", _Started, path=argv[0], arg=list(argv[1:]), capture_output=True, **data
        )
        self._pid = started.pid
        status = await self._guest.finished(started.pid)
        self._pid = None
        for each in (status.out, status.err):
            if each:
                on_data(_decoded(self._guest.name, each))
        return _exit_status(status)

    async def end(self) -> None:
        if self._pid is None:
            return
        arguments = ["/T", "/F", "/PID", str(self._pid)]
        await _limited(
            self._guest.ask("guest-exec", _Started, path="taskkill.exe", arg=arguments),
            self._guest.name,
            "end a command",
        )

    async def clean(self) -> None:
        """There are no files."""


async def _nothing() -> Any:
    return
    yield  # so that it is a generator


async def _limited(work: Awaitable[object], name: str, doing: str) -> None:
    """Do something in a guest that may be gone, within a limit. Logs a failure."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            await work
    except (DriverError, TimeoutError) as error:
        log.warning("cannot %s in %s: %s", doing, name, error or "it takes too long")


def _exit_status(status: _Status) -> int:
    if status.signal is not None:
        return 128 + status.signal % 128
    return (status.exitcode or 0) % 256


def _decoded(name: str, data: str) -> bytes:
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(data, validate=True)
    raise DriverError(f"the guest agent of {name} answers with no base64")


def _too_much(name: str, what: str, most: int) -> DriverError:
    return DriverError(
        f"a command in {name} {what} {most >> 20} MiB, which is the most by the guest agent",
        hint="by SSH there is no limit: give the guest a management port (testbed_options.management)",
    )
