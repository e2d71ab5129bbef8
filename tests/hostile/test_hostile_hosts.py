"""Other hosts and guests whose SSH server means harm: it fills no memory and keeps nobody waiting."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from kvmcompose.core.model import Host
from kvmcompose.server.drivers import DriverError
from kvmcompose.server.drivers import machine as machine_module
from kvmcompose.server.drivers import remote as remote_module
from kvmcompose.server.drivers._host_connection import HostConnection
from kvmcompose.server.drivers.remote import RemoteMachine

_MIB = 1 << 20
#: What a test may add to the most memory that this process has had, in MiB.
_GROWTH = 64
_PID = b"kvm-compose: 4242\n"

Talk = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


def peak() -> int:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


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
async def other_host(folder: Path, talk: Talk) -> AsyncIterator[RemoteMachine]:
    """A host whose every program is ``talk``."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=_Anybody, server_host_keys=[key], process_factory=talk, encoding=None
    )
    connection = HostConnection(host(folder, server.get_port(), key))
    try:
        yield RemoteMachine(connection)
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
        if command.startswith("kill "):
            self.killed.append(command)
            process.exit(0)
            return
        with contextlib.suppress(OSError, asyncssh.Error):
            await self._script(process)


async def _print_for_ever(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.stderr.write(_PID)
    while True:
        process.stdout.write(b"x" * _MIB)
        await process.stdout.drain()


def test_a_program_of_another_host_that_prints_without_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "MOST_OUTPUT", 4 * _MIB)
    programs = Programs(_print_for_ever)

    async def run() -> None:
        async with other_host(tmp_path, programs) as machine:
            with pytest.raises(DriverError, match="yes printed more than 4 MiB on two: it was ended"):
                await machine.run(["yes"], seconds=60)

    before, started = peak(), time.monotonic()
    asyncio.run(run())
    assert programs.killed == ["kill -TERM -- -4242"]
    assert time.monotonic() - started < 20
    assert peak() - before < _GROWTH


def test_of_what_it_complains_about_the_last_is_kept(tmp_path: Path) -> None:
    async def complain(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write(b"a word of the shell\n" + _PID[:9])
        await process.stderr.drain()
        await asyncio.sleep(0.05)
        process.stderr.write(_PID[9:])
        for _ in range(100):
            process.stderr.write(b"x" * _MIB)
            await process.stderr.drain()
        process.stderr.write(b"\nthe last\n")
        process.stdout.write(b"printed\n")
        process.exit(3)

    async def run() -> None:
        async with other_host(tmp_path, Programs(complain)) as machine:
            done = await machine.run(["true"], check=False)
            assert (done.status, done.stdout, done.complaint) == (3, b"printed\n", "the last")
            assert len(done.stderr) < _MIB

    before = peak()
    asyncio.run(run())
    assert peak() - before < _GROWTH


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
    """Its outputs are closed, its channel is not; and it may not even have said who it is."""
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
    assert programs.killed == (["kill -TERM -- -4242"] if says_who else [])
