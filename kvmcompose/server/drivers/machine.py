"""The one way to run programs on a testbed host. Commands are argv lists, never shell strings.

``ThisMachine`` is the machine that the server runs on. Whatever drives a host takes a ``Machine``, so that
another host needs another one of these and nothing else (``remote``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.server.drivers import DriverError

log = logging.getLogger(__name__)

#: Programs of the system's administration are not on everybody's PATH.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_PACKAGES = {
    "ethtool": "ethtool",
    "ip": "iproute2",
    "ovs-appctl": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "pkill": "procps",
    "ps": "procps",
    "qemu-img": "qemu-utils",
    "sudo": "sudo",
    "tcpdump": "tcpdump",
}
#: How long a program that was told to end by its time limit gets, in seconds.
GRACE = 1
_NO_SUCH_PROGRAM = 127
_CHUNK = 1 << 16
#: What is kept of what a stream's program says on standard error, in bytes: the last.
_COMPLAINTS = 1 << 16
#: What a program may print, in bytes: what Open vSwitch tells of ten thousand guests is a tenth of it.
MOST_OUTPUT = 1 << 26
#: How long the program of a stream that is not wanted any more may take to end, in seconds. The shell around
#: it kills it before that.
_END_SECONDS = 4
#: Runs a program, with a process group of its own, until this shell's standard input ends, whatever ended it:
#: who started it may not be allowed to kill it (it is root's), be dead, or have lost the connection. SIGTERM,
#: as what a shell starts in the background ignores SIGINT; tcpdump writes out what it has at either.
_WHILE_WANTED = """\
exec 3<&0
setsid env "$@" </dev/null 3<&- & group=$!
{ read -r _; kill -TERM "-$group"; sleep 2; kill -KILL "-$group"; } <&3 >/dev/null 2>&1 & watcher=$!
exec 3<&-
wait "$group"
status=$?
kill "$watcher"
exit "$status"
"""
#: The longest standard input that is shown with a command, in bytes.
_SHOWN = 1 << 16


class Completed(msgspec.Struct, frozen=True):
    """How a program ended, and what it printed."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def complaint(self) -> str:
        """The last line on standard error."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it printed nothing)"


class Machine(Protocol):
    """A host that programs can be run on."""

    name: str

    async def reach(self) -> None:
        """Raises DriverError when the host does not answer."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        """Run a program to its end; it and its children are killed after ``seconds`` or when cancelled.

        ``privileged``: as root. Messages are in English. Raises DriverError when it cannot be run, takes
        too long or (unless ``check=False``) fails.
        """

    def stream(self, argv: Sequence[str], *, privileged: bool = False) -> AsyncGenerator[bytes]:
        """What a program prints, as it comes, until it ends; chunks are never empty.

        Whoever has had enough closes the generator (``aclose``), or is cancelled: then the program gets
        SIGTERM, soon after that SIGKILL, and has ended when this returns. It ends as well when this process
        dies or the connection to the host is lost. While nobody takes chunks, it waits. Raises DriverError
        when it cannot be run or fails.
        """


class ThisMachine:
    """The machine that the server runs on."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = os.environ.get("PATH")
        self._environment = {
            **os.environ,
            "PATH": f"{path}:{SYSTEM_PATH}" if path else SYSTEM_PATH,
            "LC_ALL": "C",
        }

    async def reach(self) -> None:
        """It is here."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        """As Machine says."""
        command = as_root(argv, seconds) if privileged and os.geteuid() != 0 else list(argv)
        log.debug("$ %s", pasteable(argv, stdin, privileged=privileged))
        process = await self._start(command, with_input=stdin is not None)
        try:
            async with asyncio.timeout(seconds):
                stdout, stderr = await _communicate(process, stdin, argv[0], self.name)
        except TimeoutError:
            await _kill(process)
            raise DriverError(
                f"{argv[0]} did not end within {seconds:g} s on {self.name}",
                hint=f"to see it yourself, run: {pasteable(argv, stdin, privileged=privileged)}",
            ) from None
        except BaseException:
            await _kill(process)
            raise
        assert process.returncode is not None  # noqa: S101 - communicate() returns when it has ended
        completed = Completed(process.returncode, stdout, stderr)
        if check and completed.status != 0:
            raise failure(argv, completed, self.name, stdin=stdin, privileged=privileged)
        return completed

    async def stream(self, argv: Sequence[str], *, privileged: bool = False) -> AsyncGenerator[bytes]:
        """As Machine says."""
        log.debug("$ %s", pasteable(argv, privileged=privileged))
        rights = ["sudo", "-n", "--"] if privileged and os.geteuid() != 0 else []
        process = await self._start([*rights, *while_wanted(argv)], with_input=True)
        assert process.stdout is not None  # noqa: S101 (it is a pipe, as is the next)
        assert process.stderr is not None  # noqa: S101
        complaints = asyncio.create_task(tail(process.stderr))
        try:
            while chunk := await process.stdout.read(_CHUNK):
                yield chunk
            status = await process.wait()
            if status != 0:
                completed = Completed(status, b"", await complaints)
                raise failure(argv, completed, self.name, privileged=privileged)
        finally:
            await _end(process)
            complaints.cancel()

    async def _start(self, command: Sequence[str], *, with_input: bool) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE if with_input else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise not_installed(command[0], self.name) from None
        except OSError as error:
            raise DriverError(f"cannot run {command[0]} on {self.name}: {error.strerror}") from error


def while_wanted(argv: Sequence[str]) -> list[str]:
    """The command that runs another one, and ends it when its own standard input comes to its end."""
    return ["sh", "-c", _WHILE_WANTED, "sh", *argv]


def _too_much(program: str, host: str) -> DriverError:
    """The error of a program that prints without end."""
    return DriverError(
        f"{program} printed more than {MOST_OUTPUT >> 20} MiB on {host}: it was ended",
        hint="see what it prints: run it there by hand, with `| head`",
    )


async def _bounded(source: Readable, program: str, host: str) -> bytes:
    """Read to the end. Raises DriverError for more than a program may print."""
    found = bytearray()
    while chunk := await source.read(_CHUNK):
        found += chunk
        if len(found) > MOST_OUTPUT:
            raise _too_much(program, host)
    return bytes(found)


async def collect(
    stdout: Readable, stderr: Readable, feed: Coroutine[Any, Any, None], program: str, host: str
) -> tuple[bytes, bytes]:
    """What a program prints until it closes both of its outputs, while ``feed`` gives it its input.

    Of standard error the last is kept. Raises DriverError for more on standard output than it may print.
    """
    printing = asyncio.ensure_future(_bounded(stdout, program, host))
    complaining = asyncio.ensure_future(tail(stderr))
    feeding = asyncio.ensure_future(feed)
    try:
        printed, complaints, _ = await asyncio.gather(printing, complaining, feeding)
    finally:
        for task in (printing, complaining, feeding):
            task.cancel()
        await asyncio.gather(printing, complaining, feeding, return_exceptions=True)
    return printed, complaints


async def _communicate(
    process: asyncio.subprocess.Process, stdin: bytes | None, program: str, host: str
) -> tuple[bytes, bytes]:
    """What a program prints until it ends. Raises DriverError for too much."""
    assert process.stdout is not None  # noqa: S101 (it is a pipe, as is the next)
    assert process.stderr is not None  # noqa: S101

    async def feed() -> None:
        if process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(stdin or b"")
            await process.stdin.drain()
        process.stdin.close()

    printed = await collect(process.stdout, process.stderr, feed(), program, host)
    await process.wait()
    return printed


class Readable(Protocol):
    """Where bytes come from."""

    async def read(self, n: int, /) -> bytes:
        """Up to ``n`` bytes, none at the end."""


async def tail(source: Readable) -> bytes:
    """Read to the end; the last of it."""
    found = b""
    while chunk := await source.read(_CHUNK):
        found = (found + chunk)[-_COMPLAINTS:]
    return found


def as_root(argv: Sequence[str], seconds: float) -> list[str]:
    """The command through sudo. What runs as root we could not kill: there it has its own time limit."""
    return ["sudo", "-n", "--", "timeout", f"--kill-after={GRACE}", f"{seconds:g}", *argv]


def failure(
    argv: Sequence[str],
    completed: Completed,
    host: str,
    *,
    stdin: bytes | None = None,
    privileged: bool = False,
) -> DriverError:
    """The error of a program that failed: its last words, and the command to see them again."""
    if completed.complaint.startswith("sudo: a password is required"):
        return DriverError(
            f"{argv[0]} has to run as root on {host}, and sudo asks for a password",
            hint="run the server as root, or let its user run sudo without a password",
        )
    if is_not_installed(completed):
        return not_installed(argv[0], host)
    # what it says in its own name tells more than what it says last: tcpdump ends with its counts
    lines = completed.stderr.decode(errors="replace").splitlines()
    own = [line for line in lines if line.startswith(f"{argv[0]}: ")] or [completed.complaint]
    return DriverError(
        f"{argv[0]} failed with status {completed.status} on {host}: {own[-1]}",
        hint=f"to see it yourself, run: {pasteable(argv, stdin, privileged=privileged)}",
    )


def pasteable(argv: Sequence[str], stdin: bytes | None = None, *, privileged: bool = False) -> str:
    """A command as a shell takes it, with its standard input."""
    text = shlex.join(["sudo", *argv] if privileged and os.geteuid() != 0 else argv)
    if stdin is None:
        return text
    if len(stdin) > _SHOWN or b"\0" in stdin:
        return f"{text}  # with {len(stdin)} bytes on its standard input"
    return f"{text} <<'END'\n{stdin.decode(errors='replace').rstrip()}\nEND"


def is_not_installed(completed: Completed) -> bool:
    """Whether it ended because there is no such program: so say env, timeout and sudo."""
    return completed.status == _NO_SUCH_PROGRAM and "No such file" in completed.complaint


def not_installed(program: str, host: str) -> DriverError:
    """The error of a program that is not there, and the package it is in."""
    package = _PACKAGES.get(program)
    return DriverError(
        f"the program {program!r} is not installed on {host}",
        hint=f"sudo apt-get install {package}" if package else None,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Tell the program of a stream that it is not wanted any more, and wait until it has ended."""
    assert process.stdin is not None  # noqa: S101 (it is a pipe, as is the next)
    assert process.stdout is not None  # noqa: S101
    process.stdin.close()
    rest = asyncio.create_task(tail(process.stdout))  # what nobody takes would keep it waiting
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        log.warning("a program does not end: process %d", process.pid)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait([rest], timeout=GRACE)
        rest.cancel()


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End a program and its children; one that is root's, and we are not, ends by its own time limit."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        return
    # it has not ended for asyncio before its pipes have, and what is left in them would keep these open
    rest = [
        asyncio.ensure_future(tail(pipe)) for pipe in (process.stdout, process.stderr) if pipe is not None
    ]
    try:
        with contextlib.suppress(ProcessLookupError):
            await asyncio.shield(process.wait())
    finally:
        for each in rest:
            each.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
