"""Other hosts and guests whose SSH server means harm: it fills no memory and keeps nobody waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest
from memory import MIB, growth_below

from kvmcompose.core.model import Host
from kvmcompose.hosts import command as machine_module
from kvmcompose.hosts import connection as host_connection
from kvmcompose.hosts import remote as remote_module
from kvmcompose.hosts import ssh
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.remote import SshRunner
from kvmcompose.providers.guest import command as guest_command
from kvmcompose.providers.guest import connection as guest_connection
from kvmcompose.providers.guest.driver import SshShell
from kvmcompose.providers.guest.interface import Login

#: What a test may take, in MiB.
_GROWTH = 64
_PID = b"kvm-compose: 4242\n"

Talk = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


class _Anybody(asyncssh.SSHServer):
    def begin_auth(self, _username: str) -> bool:
        return False


def host(folder: Path, port: int, key: asyncssh.SSHKey) -> Host:
    """The other host as the configuration names it."""
    key.write_private_key(folder / "key")
    return Host(
        name="two", ip="127.0.0.1", user="root", ssh_port=port, identity_file=str(folder / "key"),
        host_key=key.export_public_key("openssh").decode().strip(),
    )  # fmt: skip


@asynccontextmanager
async def other_host(folder: Path, talk: Talk, window: int = 1 << 21) -> AsyncIterator[SshRunner]:
    """A host whose every program is ``talk``."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=_Anybody,
        server_host_keys=[key],
        process_factory=talk,
        encoding=None,
        window=window,
    )
    connection = HostConnection(host(folder, server.get_port(), key))
    try:
        yield SshRunner(connection)
    finally:
        await connection.close()
        server.close()
        await server.wait_closed()


class Programs:
    """What the programs of the other host do, and which were asked for."""

    def __init__(self, script: Talk) -> None:
        self.killed: list[str] = []
        self._script = script

    async def __call__(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        if command.startswith("env kill "):
            self.killed.append(command)
            process.exit(0)
            return
        with contextlib.suppress(OSError, asyncssh.Error):
            await self._script(process)


async def _print_for_ever(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.stderr.write(_PID)
    while True:
        process.stdout.write(b"x" * MIB)
        await process.stdout.drain()


def test_a_program_of_another_host_that_prints_without_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "MOST_OUTPUT", 4 * MIB)
    programs = Programs(_print_for_ever)

    async def run() -> None:
        async with other_host(tmp_path, programs) as machine:
            with pytest.raises(DriverError, match="yes printed more than 4 MiB on two and was killed"):
                await machine.run(["yes"], seconds=60)

    started = time.monotonic()
    with growth_below(_GROWTH):
        asyncio.run(run())
    assert programs.killed == ["env kill -TERM -- -4242"]
    assert time.monotonic() - started < 20


def test_of_what_it_complains_about_the_last_is_kept(tmp_path: Path) -> None:
    async def complain(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write(b"a word of the shell\n" + _PID[:9])
        await process.stderr.drain()
        await asyncio.sleep(0.05)
        process.stderr.write(_PID[9:])
        for _ in range(100):
            process.stderr.write(b"x" * MIB)
            await process.stderr.drain()
        process.stderr.write(b"\nthe last\n")
        process.stdout.write(b"printed\n")
        process.exit(3)

    async def run() -> None:
        async with other_host(tmp_path, Programs(complain)) as machine:
            done = await machine.run(["true"], check=False)
            assert (done.status, done.stdout, done.complaint) == (3, b"printed\n", "the last")
            assert len(done.stderr) < MIB

    with growth_below(_GROWTH):
        asyncio.run(run())


def test_what_is_given_and_printed_is_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000

    async def cat(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write(b"before\n" + _PID + b"after\n")
        while chunk := await process.stdin.read(1 << 16):
            process.stdout.write(chunk)
            await process.stdout.drain()
        process.exit(0)

    async def run() -> None:
        async with other_host(tmp_path, Programs(cat)) as machine:
            done = await machine.run(["cat"], stdin=data)
            assert done.stdout == data
            assert done.stderr == b"before\nafter\n"

    asyncio.run(run())


@pytest.mark.parametrize("says_who", [True, False])
def test_a_program_that_never_ends_is_given_up(
    says_who: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program closes its outputs but not its channel, whether or not it reported its process ID."""
    monkeypatch.setattr(remote_module, "_SLACK", 1.0)

    async def hang(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write(_PID if says_who else b"x" * 9_000)
        process.channel.write_eof()
        await asyncio.sleep(60)

    programs = Programs(hang)

    async def run() -> None:
        async with other_host(tmp_path, programs) as machine:
            with pytest.raises(DriverError, match="yes did not end within 1 s on two"):
                await machine.run(["yes"], seconds=1)

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 10
    assert programs.killed == (["env kill -TERM -- -4242"] if says_who else [])


# -- before the login, and without answers -------------------------------------------------------------


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of time, shorter."""
    monkeypatch.setattr(host_connection, "_CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(guest_connection, "_LOGIN_SECONDS", 2.0)
    for module in (remote_module, guest_command):
        monkeypatch.setattr(module, "BEGIN_SECONDS", 1.0)


def guest(folder: Path, port: int) -> Login:
    return Login(
        guest="web", alias="lab-web", address="127.0.0.1", port=port, user="root",
        identity_file=folder / "key", known_hosts=folder / "known_hosts", life="",
    )  # fmt: skip


async def refused(folder: Path, port: int, key: asyncssh.SSHKey, what: str) -> None:
    """Run a program there: that has to fail, and soon."""
    there = host(folder, port, key)
    started = time.monotonic()
    if what == "host":
        connection = HostConnection(there)
        with pytest.raises(DriverError):
            await SshRunner(connection).run(["true"], seconds=2)
        await connection.close()
    else:
        shell = SshShell()
        with pytest.raises(DriverError):
            await shell.run(guest(folder, port), ["true"], lambda _: None, seconds=None)
        await shell.close()
    assert time.monotonic() - started < 10


async def _no_end(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * MIB)
        await writer.drain()


async def _many_lines(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"hello\r\n" * 10_000)
        await writer.drain()


async def _drips(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"S")
        await asyncio.sleep(0.2)


async def _ignored_packets(writer: asyncio.StreamWriter) -> None:
    """Packets that mean nothing (SSH_MSG_IGNORE), large and without end."""
    writer.write(b"SSH-2.0-x\r\n")
    content = b"\2" + (200_000).to_bytes(4, "big") + b"x" * 200_000
    packet = bytes([8]) + content + b"p" * 8
    while True:
        writer.write(len(packet).to_bytes(4, "big") + packet)
        await writer.drain()


async def _large_packet(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-x\r\n\x7f\xff\xff\xff")
    await _no_end(writer)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("what", ["host", "guest"])
@pytest.mark.parametrize("talk", [_no_end, _many_lines, _drips, _ignored_packets, _large_packet])
def test_who_talks_before_the_login_is_cut_off(
    talk: Callable[[asyncio.StreamWriter], Awaitable[None]], what: str, tmp_path: Path
) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                await asyncio.wait_for(talk(writer), 20)
        finally:
            writer.transport.abort()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await refused(tmp_path, port, asyncssh.generate_private_key("ssh-ed25519"), what)
        server.close()

    with growth_below(_GROWTH):
        asyncio.run(run())


class _Greets(asyncssh.SSHServer):
    """Greets without end, and never lets anybody in."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    async def begin_auth(self, _username: str) -> bool:
        with contextlib.suppress(OSError, asyncssh.Error):
            while not self._connection.is_closed():
                self._connection.send_auth_banner("x" * 10_000)
                await asyncio.sleep(0.001)
        return True


class _NeverBegins(_Anybody):
    """Lets everybody in, and answers no request for a session."""

    async def session_requested(self) -> bool:
        await asyncio.sleep(60)
        return False


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("what", ["host", "guest"])
@pytest.mark.parametrize("kind", [_Greets, _NeverBegins])
def test_who_does_not_go_on_is_given_up(kind: type[asyncssh.SSHServer], what: str, tmp_path: Path) -> None:
    async def run() -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        server = await asyncssh.listen("127.0.0.1", 0, server_factory=kind, server_host_keys=[key])
        await refused(tmp_path, server.get_port(), key, what)
        server.close()

    with growth_below(_GROWTH):
        asyncio.run(run())


def test_what_is_sent_is_not_kept_for_who_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it takes a gigabyte, and takes nothing."""
    monkeypatch.setattr(ssh, "MOST_UNSENT", MIB)

    async def deaf(process: asyncssh.SSHServerProcess[bytes]) -> None:
        transport = process.channel.get_connection()._transport
        assert transport is not None
        transport.pause_reading()
        try:
            await asyncio.sleep(20)
        finally:
            transport.abort()

    async def run() -> None:
        async with other_host(tmp_path, Programs(deaf), window=1 << 30) as machine:
            with pytest.raises(DriverError, match=r"the connection to two .* was lost"):
                await machine.run(["cat"], stdin=bytes(24 * MIB), seconds=60)

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 10
