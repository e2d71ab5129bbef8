"""Runs programs on another testbed host, over SSH."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shlex
import socket
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

import asyncssh

from kvmcompose.hosts.command import (
    CONNECT_SECONDS,
    GRACE,
    SYSTEM_PATH,
    Completed,
    as_root,
    collect,
    failure,
    is_not_installed,
    not_connected,
    not_installed,
    pasteable,
    tail,
    while_wanted,
)
from kvmcompose.hosts.connection import SESSIONS, HostConnection
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.forwarding import pump
from kvmcompose.hosts.ssh import BEGIN_SECONDS, SILENT, text_of

log = logging.getLogger(__name__)

#: How much later than ours a time limit on the host may expire, in seconds.
_SLACK = 10.0
#: How timeout(1) exits after it has ended a command; killed itself, if it had to kill.
_TIMED_OUT = (124, 137, -9)
#: sshd passes a command line to a shell as one word, of 128 KiB at most (execve(2)). In bytes.
_LONG_LINE = 100_000
_PAUSE = 0.1
#: How long to wait for the end of an abandoned program, and how long to try to end it, in seconds.
_END_SECONDS, _END_TRIES_SECONDS = 3.0, 60.0
#: Reports its process ID: sshd forwards no signals to programs of root.
_REPORT = 'echo "kvm-compose: $$" >&2'
#: Replaces the shell by the command.
_BECOME = f'exec env LC_ALL=C "PATH=$PATH:{SYSTEM_PATH}" "$@"'
_REPORTED = re.compile(rb"kvm-compose: ([0-9]{1,10})\n")
#: The most that the user's shell may print before that, in bytes.
_MOST_BEFORE = 1 << 14
CHUNK = 1 << 16
#: How long the program of a stream may take to exit: somewhat more than the shell around it allows, in
#: seconds.
_STREAM_END_SECONDS = 5.0


class _Carrier:
    """A connection for attached programs, and how many it has."""

    def __init__(self, connection: HostConnection) -> None:
        self.connection = connection
        self.count = 0


class SshRunner:
    """See ``CommandRunner``. When the connection is lost, a program there ends by its time limit."""

    def __init__(self, connection: HostConnection) -> None:
        self.name = connection.host.name
        self._connection = connection
        self._ending: set[asyncio.Task[None]] = set()
        self._carriers: list[_Carrier] = []
        self._attached: set[asyncio.Task[None]] = set()

    async def reach(self) -> None:
        await self._connection.get()

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        """See ``CommandRunner``. Raises HostLostError when the connection is lost: it may have run."""
        log.debug("%s$ %s", self.name, pasteable(argv, stdin, privileged=privileged))
        await self.reach()  # then the user is known
        line, ahead = self._line(argv, seconds, privileged=privileged)
        given = ahead + (stdin or b"")
        async with self._connection.sessions:
            started = time.monotonic()
            try:
                completed = await self._run(
                    argv[0], line, given, seconds, roots=self._is_roots(privileged=privileged)
                )
            except TimeoutError:
                raise self._too_slow(argv, stdin, seconds, privileged=privileged) from None
        if completed.status in _TIMED_OUT and time.monotonic() - started >= seconds:
            raise self._too_slow(argv, stdin, seconds, privileged=privileged)
        if is_not_installed(completed):
            raise not_installed(argv[0], self.name)
        if check and completed.status != 0:
            raise failure(argv, completed, self.name, stdin=stdin, privileged=privileged)
        return completed

    async def stream(self, argv: Sequence[str], *, privileged: bool = False) -> AsyncGenerator[bytes]:
        """See ``CommandRunner``. Uses a connection of its own: it may last, and sshd limits sessions."""
        log.debug("%s$ %s", self.name, pasteable(argv, privileged=privileged))
        await self.reach()
        rights = ["sudo", "-n", "--"] if self._is_roots(privileged=privileged) else []
        line = _reporting([*rights, *while_wanted(argv)])
        connection = HostConnection(self._connection.host, self._connection.member)
        try:
            async with self._connection.logins:
                opened = await connection.get()
            try:
                async with asyncio.timeout(BEGIN_SECONDS):
                    process = await opened.create_process(line, encoding=None)
            except TimeoutError:
                raise self._not_begun(argv[0]) from None
            complaints = asyncio.create_task(tail(_Complaints(process.stderr)))
            try:
                while chunk := await process.stdout.read(CHUNK):
                    yield chunk
                await process.wait_closed()
                completed = Completed(_status(process), b"", await complaints)
                if completed.status != 0:
                    raise failure(argv, completed, self.name, privileged=privileged)
            finally:
                await _let_go(process)
                complaints.cancel()
                await asyncio.gather(complaints, return_exceptions=True)
        except (OSError, asyncssh.Error) as error:
            raise connection.lost(error) from error
        finally:
            await connection.close()

    async def attach(self, argv: Sequence[str], *, privileged: bool = False) -> socket.socket:
        """See ``CommandRunner``. Uses connections of their own, each for as many as sshd allows."""
        log.debug("%s$ %s", self.name, pasteable(argv, privileged=privileged))
        await self.reach()
        rights = ["sudo", "-n", "--"] if self._is_roots(privileged=privileged) else []
        line = f"exec {shlex.join([*rights, 'env', 'LC_ALL=C', *argv])}"
        carrier = next((each for each in self._carriers if each.count < SESSIONS), None)
        if carrier is None:
            carrier = _Carrier(HostConnection(self._connection.host, self._connection.member))
            self._carriers.append(carrier)
        carrier.count += 1
        try:
            process = await self._begin_on(carrier.connection, line, argv[0])
        except BaseException:
            await self._release(carrier)
            raise
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._keep(asyncio.create_task(self._carry(carrier, process, theirs)))
        return ours

    async def connect(self, address: str, port: int) -> socket.socket:
        """See ``CommandRunner``. Needs ``AllowTcpForwarding`` there, which sshd(8) has by default."""
        connection = await self._connection.get()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await connection.open_connection(address, port, encoding=None)
        except TimeoutError:
            raise not_connected(self.name, address, port, "it does not answer") from None
        except asyncssh.ChannelOpenError as error:
            raise not_connected(self.name, address, port, text_of(error)) from error
        except (OSError, asyncssh.Error) as error:
            raise self._connection.lost(error) from error
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._keep(asyncio.create_task(_copy(reader, writer, theirs)))
        return ours

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._attached.add(task)
        task.add_done_callback(self._attached.discard)

    async def _begin_on(
        self, connection: HostConnection, line: str, program: str
    ) -> asyncssh.SSHClientProcess[bytes]:
        try:
            async with self._connection.logins:
                opened = await connection.get()
            async with asyncio.timeout(BEGIN_SECONDS):
                return await opened.create_process(line, stderr=asyncssh.STDOUT, encoding=None)
        except TimeoutError:
            raise self._not_begun(program) from None
        except (OSError, asyncssh.Error) as error:
            raise connection.lost(error) from error

    async def _carry(
        self, carrier: _Carrier, process: asyncssh.SSHClientProcess[bytes], endpoint: socket.socket
    ) -> None:
        """Copy between a socket and a program until either ends."""
        try:
            await _copy(process.stdout, process.stdin, endpoint)
        finally:
            process.close()
            await self._release(carrier)

    async def _release(self, carrier: _Carrier) -> None:
        carrier.count -= 1
        if carrier.count == 0 and carrier in self._carriers:
            self._carriers.remove(carrier)
            await carrier.connection.close()

    async def close(self) -> None:
        """End the programs that were attached, and connections."""
        attached = list(self._attached)
        for task in attached:
            task.cancel()
        await asyncio.gather(*attached, return_exceptions=True)

    def _line(self, argv: Sequence[str], seconds: float, *, privileged: bool) -> tuple[str, bytes]:
        """Return the line for the user's shell, and the part of a long one that goes to standard input."""
        if self._is_roots(privileged=privileged):
            command = as_root(argv, seconds)
        else:
            command = ["timeout", f"--kill-after={GRACE}", f"{seconds:g}", *argv]
        line = _reporting(command)
        if len(line.encode()) <= _LONG_LINE:
            return line, b""
        words = f"set -- {shlex.join(command)}\n".encode()
        return _reporting([], f'eval "$(head -c {len(words)})"'), words

    def _is_roots(self, *, privileged: bool) -> bool:
        """Return whether the program runs as root, and the user is not root."""
        return privileged and self._connection.user != "root"

    async def _run(self, program: str, line: str, stdin: bytes, seconds: float, *, roots: bool) -> Completed:
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                process = await self._begin(line, stdin, roots=roots)
        except TimeoutError:
            raise self._not_begun(program) from None
        complaints = _Complaints(process.stderr)
        try:
            async with asyncio.timeout(seconds + _SLACK):
                stdout, stderr = await collect(
                    process.stdout, complaints, _feed(process, stdin), program, self.name
                )
                await process.wait_closed()
            status = _status(process)
        except (asyncssh.Error, BrokenPipeError, ConnectionError) as error:
            process.close()
            raise self._connection.lost(error) from error
        except BaseException:
            await self._give_up(self._end(process, complaints, roots=roots))
            raise
        process.close()
        return Completed(status, stdout, stderr)

    async def _begin(self, line: str, stdin: bytes, *, roots: bool) -> asyncssh.SSHClientProcess[bytes]:
        """Start it; when cancelled, it does not keep running.

        sshd frees a session when its program has ended, which an abandoned one may not have yet.
        """
        end = time.monotonic() + _SLACK
        while True:
            connection = await self._connection.get()
            source = asyncssh.PIPE if stdin else asyncssh.DEVNULL
            beginning = asyncio.ensure_future(connection.create_process(line, stdin=source, encoding=None))
            try:
                return await asyncio.shield(beginning)
            except asyncio.CancelledError:
                await self._give_up(self._end_once_begun(beginning, roots=roots))
                raise
            except asyncssh.ChannelOpenError as error:
                if connection.is_closed():
                    raise self._connection.lost(error) from error
                if time.monotonic() > end:
                    where = self._connection.where
                    raise DriverError(f"{where} refuses to run a program: {text_of(error)}") from error
            except (OSError, asyncssh.Error) as error:
                raise self._connection.lost(error) from error
            await asyncio.sleep(_PAUSE)

    async def _give_up(self, ending: Coroutine[Any, Any, None]) -> None:
        """Wait briefly for the end of a program; on a busy host it may come later."""
        task = asyncio.create_task(self._try(ending))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.wait([task], timeout=_END_SECONDS)

    @staticmethod
    async def _try(ending: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(DriverError, OSError, asyncssh.Error):
            await asyncio.wait_for(ending, _END_TRIES_SECONDS)

    async def _end_once_begun(
        self, beginning: asyncio.Future[asyncssh.SSHClientProcess[bytes]], *, roots: bool
    ) -> None:
        process = await beginning
        await self._end(process, _Complaints(process.stderr), roots=roots)

    async def _end(
        self, process: asyncssh.SSHClientProcess[bytes], complaints: _Complaints, *, roots: bool
    ) -> None:
        """End an abandoned program with its children, before its time limit does."""
        rest = asyncio.ensure_future(tail(process.stdout))  # unread output would block it
        try:
            pid = await complaints.process_id()
            if pid is None:
                return
            # the program: dash's own kill rejects "--", and without it procps' may take -123 for -1
            kill = ["sudo", "-n", "--", "kill"] if roots else ["env", "kill"]
            line = shlex.join([*kill, "-TERM", "--", f"-{pid}"])
            if process.returncode is not None:
                return  # the process group may belong to another program by now
            try:
                connection = await self._connection.get()
                await connection.run(line, **SILENT)
            except asyncssh.ChannelOpenError:  # the programs to be ended may occupy all sessions
                await self._run_separately(line)
        finally:
            rest.cancel()
            process.close()
            await asyncio.gather(rest, return_exceptions=True)

    async def _run_separately(self, line: str) -> None:
        """Run a command line over a connection of its own."""
        connection = HostConnection(self._connection.host, self._connection.member)
        try:
            async with self._connection.logins:
                opened = await connection.get()
            await opened.run(line, **SILENT)
        finally:
            await connection.close()

    def _not_begun(self, program: str) -> DriverError:
        return DriverError(f"{self._connection.where} did not start {program} within {BEGIN_SECONDS:g} s")

    def _too_slow(
        self, argv: Sequence[str], stdin: bytes | None, seconds: float, *, privileged: bool
    ) -> DriverError:
        return DriverError(
            f"{argv[0]} did not end within {seconds:g} s on {self.name}",
            hint=f"to reproduce, run there: {pasteable(argv, stdin, privileged=privileged)}",
        )


class _Complaints:
    """Standard error without the line that reports the process ID."""

    def __init__(self, source: asyncssh.SSHReader[bytes]) -> None:
        self._source = source
        self._before = b""
        self._pid: int | None = None
        self._looking = True

    async def process_id(self) -> int | None:
        """Return the process ID once it is known; None if it was not reported."""
        while self._looking:
            chunk = await self._source.read(CHUNK)
            self._before += chunk
            if found := _REPORTED.search(self._before):
                self._pid = int(found[1])
                self._before = _REPORTED.sub(b"", self._before, count=1)
            self._looking = self._pid is None and chunk != b"" and len(self._before) < _MOST_BEFORE
        return self._pid

    async def read(self, n: int, /) -> bytes:
        """Return the rest of standard error."""
        await self.process_id()
        before, self._before = self._before, b""
        return before or await self._source.read(n)


async def _feed(process: asyncssh.SSHClientProcess[bytes], stdin: bytes) -> None:
    """Write a program's standard input, if it has one; it may exit without reading all of it."""
    if not stdin:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(stdin)
        process.stdin.write_eof()
        await process.stdin.drain()


async def _copy(
    source: asyncssh.SSHReader[bytes], target: asyncssh.SSHWriter[bytes], endpoint: socket.socket
) -> None:
    """Copy between a socket and a channel until either ends."""
    reader, writer = await asyncio.open_unix_connection(sock=endpoint)
    copying = [
        asyncio.ensure_future(pump(reader, target)),
        asyncio.ensure_future(pump(source, writer)),
    ]
    try:
        await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in copying:
            each.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        writer.close()
        target.close()


def _reporting(command: Sequence[str], first: str = ":") -> str:
    """Return a line for any login shell: it reports its process ID, runs ``first``, becomes the command."""
    return f"exec {shlex.join(['sh', '-c', f'{_REPORT}; {first}; {_BECOME}', 'sh', *command])}"


def _status(process: asyncssh.SSHClientProcess[bytes]) -> int:
    """Return the exit status of a program. Raises ConnectionLost when it is unknown."""
    if process.returncode is None:
        raise asyncssh.ConnectionLost("it ended without a status")
    return process.returncode


async def _let_go(process: asyncssh.SSHClientProcess[bytes]) -> None:
    """End the program of a stream by closing its standard input, and wait for it."""
    with contextlib.suppress(OSError, asyncssh.Error):
        process.stdin.write_eof()
        async with asyncio.timeout(_STREAM_END_SECONDS):
            while await process.stdout.read(CHUNK):  # unread output would block it
                pass
            await process.wait_closed()
