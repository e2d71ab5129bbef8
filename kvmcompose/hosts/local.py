"""Runs programs on the machine that the server runs on. The only module here that starts processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence

from kvmcompose.hosts.command import (
    CHUNK,
    CONNECT_SECONDS,
    GRACE,
    SYSTEM_PATH,
    Completed,
    as_root,
    collect,
    failure,
    not_connected,
    not_installed,
    pasteable,
    tail,
    while_wanted,
)
from kvmcompose.hosts.errors import DriverError

log = logging.getLogger(__name__)

#: A program that runs.
Program = asyncio.subprocess.Process


#: How long the program of an abandoned stream may take to exit, in seconds. The shell around it kills it
#: before.
_END_SECONDS = 4


class LocalRunner:
    """Runs programs on this machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = os.environ.get("PATH")
        self._environment = {
            **os.environ,
            "PATH": f"{path}:{SYSTEM_PATH}" if path else SYSTEM_PATH,
            "LC_ALL": "C",
        }
        self._attached: set[asyncio.Task[int]] = set()

    async def reach(self) -> None:
        """Always reachable."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
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
                hint=f"to reproduce: {pasteable(argv, stdin, privileged=privileged)}",
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
        log.debug("$ %s", pasteable(argv, privileged=privileged))
        rights = ["sudo", "-n", "--"] if privileged and os.geteuid() != 0 else []
        process = await self._start([*rights, *while_wanted(argv)], with_input=True)
        assert process.stdout is not None  # noqa: S101 (it is a pipe, as is the next)
        assert process.stderr is not None  # noqa: S101
        complaints = asyncio.create_task(tail(process.stderr))
        try:
            while chunk := await process.stdout.read(CHUNK):
                yield chunk
            status = await process.wait()
            if status != 0:
                completed = Completed(status, b"", await complaints)
                raise failure(argv, completed, self.name, privileged=privileged)
        finally:
            await _end(process)
            complaints.cancel()

    async def attach(self, argv: Sequence[str], *, privileged: bool = False) -> socket.socket:
        log.debug("$ %s", pasteable(argv, privileged=privileged))
        rights = ["sudo", "-n", "--"] if privileged and os.geteuid() != 0 else []
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            process = await self._start([*rights, *argv], with_input=True, attached=theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ending = asyncio.create_task(process.wait())  # it is kept, and collected when it has ended
        self._attached.add(ending)
        ending.add_done_callback(self._attached.discard)
        return ours

    async def connect(self, address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        endpoint = socket.socket(family, socket.SOCK_STREAM)
        try:
            endpoint.setblocking(False)
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(endpoint, (address, port))
        except (OSError, TimeoutError) as error:
            endpoint.close()
            reason = "it does not answer" if isinstance(error, TimeoutError) else str(error.strerror)
            raise not_connected(self.name, address, port, reason) from error
        except BaseException:
            endpoint.close()
            raise
        return endpoint

    async def close(self) -> None:
        """Wait for the programs that were attached: their sockets are closed."""
        if self._attached:
            await asyncio.wait(self._attached, timeout=_END_SECONDS)

    async def _start(
        self, command: Sequence[str], *, with_input: bool, attached: socket.socket | None = None
    ) -> asyncio.subprocess.Process:
        """Start it; when cancelled, it does not keep running."""
        pipe = asyncio.subprocess.PIPE if attached is None else attached.fileno()
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *command,
                stdin=pipe if with_input else asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                env=self._environment,
                start_new_session=True,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # asyncio would kill the program alone, not its children
            with contextlib.suppress(OSError):
                await _kill(await starting)
            raise
        except FileNotFoundError:
            raise not_installed(command[0], self.name) from None
        except OSError as error:
            raise DriverError(f"cannot run {command[0]} on {self.name}: {error.strerror}") from error


async def start_as(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    rights: tuple[int, int, Sequence[int]] | None,
    merged: bool,
    longest_line: int,
) -> asyncio.subprocess.Process:
    """Start a program with the rights of a user (``uid``, ``gid``, groups), those of this process for None.

    It has pipes, a session of its own, exactly this environment, and starts in ``/``, as this process may see
    more folders than the user. ``merged``: its standard error goes to standard output. Raises DriverError.
    """
    given: dict[str, object] = {}
    if rights is not None:
        given = {"user": rights[0], "group": rights[1], "extra_groups": list(rights[2])}
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if merged else asyncio.subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            umask=0o022,
            limit=longest_line,
            start_new_session=True,
            **given,  # type: ignore[arg-type] # passed on to subprocess.Popen
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await _kill(await starting)
        raise
    except OSError as error:
        raise DriverError(f"cannot run {argv[0]}: {error.strerror}") from error


async def _communicate(
    process: asyncio.subprocess.Process, stdin: bytes | None, program: str, host: str
) -> tuple[bytes, bytes]:
    """Return what a program prints until it ends. Raises DriverError for too much."""
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


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the program of an abandoned stream, and wait until it has exited."""
    assert process.stdin is not None  # noqa: S101 (it is a pipe, as is the next)
    assert process.stdout is not None  # noqa: S101
    process.stdin.close()
    rest = asyncio.create_task(tail(process.stdout))  # unread output would block it
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        log.warning("a program does not exit: process %d", process.pid)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait([rest], timeout=GRACE)
        rest.cancel()


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a program and its children; one of root's that we may not kill ends by its own time limit."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        return
    # for asyncio a process ends only when its pipes do, and unread output keeps those open
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
