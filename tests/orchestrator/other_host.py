"""Another host: an SSH server in this process, which runs programs as sshd does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import msgspec

from kvmcompose.core.model import Host
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.remote import SshRunner

Process = asyncssh.SSHServerProcess[bytes]


class OtherHost:
    """A host that runs commands with a shell, as sshd does."""

    def __init__(self, folder: Path) -> None:
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key.write_private_key(folder / "user-key")
        self.host = Host(
            name="two", ip="127.0.0.1", user="ann", identity_file=str(folder / "user-key"),
            host_key=self.key.export_public_key("openssh").decode().strip(),
        )  # fmt: skip
        self.lines: list[str] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.sessions = 100
        self._programs: set[int] = set()
        self._listener: asyncssh.SSHAcceptor

    async def boot(self, port: int = 0) -> None:
        self._listener = await asyncssh.listen(
            "127.0.0.1", port, server_factory=lambda: _Visit(self), server_host_keys=[self.key], encoding=None
        )
        self.host = msgspec.structs.replace(self.host, ssh_port=self._listener.get_port())

    def halt(self) -> None:
        self._listener.close()
        self.crash()

    def crash(self) -> None:
        """Abort all connections, and end all programs."""
        for each in self.connections:
            each.abort()
        self.connections = []
        for pid in self._programs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    async def over(self) -> None:
        """Wait until its programs have ended."""
        while self._programs:  # noqa: ASYNC110 (they end one by one)
            await asyncio.sleep(0.01)

    async def run(self, process: Process) -> None:
        """Run a command line as sshd does."""
        self.lines.append(process.command or "")
        program = await asyncio.create_subprocess_shell(
            process.command or "", stdin=-1, stdout=-1, stderr=-1, start_new_session=True
        )
        assert program.stdin and program.stdout and program.stderr  # noqa: PT018
        self._programs.add(program.pid)
        feeding = asyncio.create_task(_pump(process.stdin, program.stdin))
        try:
            pumps = (_pump(program.stdout, process.stdout), _pump(program.stderr, process.stderr))
            await asyncio.gather(*pumps)
            status = await program.wait()
            with contextlib.suppress(OSError, asyncssh.Error):
                process.exit(status) if status >= 0 else process.exit_with_signal("KILL")
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await program.wait()
            program.stdin.close()
            self._programs.discard(program.pid)


async def _pump(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while chunk := await source.read(1 << 16):
            target.write(chunk)
            await target.drain()
        if isinstance(target, asyncio.StreamWriter):
            target.close()
    with contextlib.suppress(OSError, asyncssh.Error):
        while await source.read(1 << 16):  # discard it, so that it does not block the program
            pass


class _Visit(asyncssh.SSHServer):
    def __init__(self, host: OtherHost) -> None:
        self._host = host
        self._sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._host.connections.append(conn)

    def begin_auth(self, _username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "ann" and key == self._host.user_key.convert_to_public()

    def session_requested(self) -> Any:
        self._sessions += 1
        if self._sessions > self._host.sessions:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "no more sessions")
        return asyncssh.SSHServerProcess(self._host.run, None, 3, False)

    def unix_connection_requested(self, _path: str) -> bool:
        return True

    def connection_requested(self, _host: str, _port: int, _orig_host: str, _orig_port: int) -> bool:
        return True


@asynccontextmanager
async def other_host(folder: Path) -> AsyncIterator[tuple[OtherHost, HostConnection]]:
    host = OtherHost(folder)
    await host.boot()
    connection = HostConnection(host.host)
    try:
        yield host, connection
    finally:
        await connection.close()
        host.halt()
        await host.over()


def on_other_host(
    folder: Path, scenario: Callable[[OtherHost, HostConnection, SshRunner], Awaitable[None]]
) -> None:
    async def run() -> None:
        async with asyncio.timeout(40), other_host(folder) as (host, connection):
            await scenario(host, connection, SshRunner(connection))

    asyncio.run(run())


#: A unique length of sleep, by which a process is found.
NAP = f"44{os.getpid()}"


def running(command: str) -> bool:
    """Return whether a process with this command line runs on this machine."""
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if command.replace(" ", "\0").encode() + b"\0" == (each / "cmdline").read_bytes():
                return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (processes have no event)
            await asyncio.sleep(0.02)
