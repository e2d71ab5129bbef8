"""Commands in guests, over SSH with a guest that is an SSH server of this process."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
import pytest

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.guest import command as command_module
from kvmcompose.providers.guest import connection as connection_module
from kvmcompose.providers.guest import driver as driver_module
from kvmcompose.providers.guest.driver import SshShell
from kvmcompose.providers.guest.interface import Login, Secret

Process = asyncssh.SSHServerProcess[bytes]


class Guest(asyncssh.SSHServer):
    """What it is asked to run says what it does: ``say WORD…``, ``exit N``, ``hang`` and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.lets_in = asyncssh.generate_private_key("ssh-ed25519")
        self.lets_in.write_private_key(folder / "key")
        self.login = Login(
            guest="web", alias="p-web", address="127.0.0.1", user="tester", identity_file=folder / "key",
            known_hosts=folder / "known_hosts",
        )  # fmt: skip
        self.ready = asyncio.Event()
        self.ready.set()
        self.waited_for = self.cut_short = 0
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.sessions = 100
        self._hanging: dict[str, asyncio.Event] = {}
        self._listener: asyncssh.SSHAcceptor | None = None

    async def boot(self, port: int = 0) -> None:
        self._listener = await asyncssh.listen(
            "127.0.0.1", port, server_factory=lambda: _Visit(self), server_host_keys=[self.key],
            encoding=None,
        )  # fmt: skip
        self.login = msgspec.structs.replace(self.login, port=self._listener.get_port())

    def halt(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for each in self.connections:
            each.abort()
        self.connections = []

    async def run(self, process: Process) -> None:
        words = shlex.split(process.command or "")
        if "read -r mark" in words[-1]:
            mark = (await process.stdin.read()).decode().strip()
            hanging = self._hanging.get(mark)
            if hanging is not None:
                hanging.set()
            process.exit(0)
        elif "/etc/nocloud/ready" in process.command:
            await self.ready.wait()
            self.waited_for += 1
            process.exit(1 if self.waited_for <= self.cut_short else 0)
        elif words == ["true"]:
            process.exit(0)
        else:
            mark = words[2].partition("\n")[0].removeprefix(": ")
            self.begun.append(words[4])
            await self.do(process, mark, words[4], words[5:])

    async def do(self, process: Process, mark: str, what: str, words: list[str]) -> None:
        match what:
            case "say":
                for word in words:
                    process.stdout.write(word.encode() + b"\n")
                process.exit(0)
            case "exit":
                process.stdout.write(b"no end")
                process.exit(int(words[0]))
            case "die":
                process.exit_with_signal(words[0])
            case "linger":  # what it left in the background keeps its output open
                process.stdout.write(b"begun\n")
                process.channel.exit(3)
                await asyncio.sleep(0.3)
            case "count":
                process.stdout.write(b"%d bytes\n" % len(await process.stdin.read()))
                process.exit(0)
            case "vanish":
                process.close()
            case "reboot":
                self.connections[-1].abort()
            case "hang":
                process.stdout.write(b"hanging\n")
                self._hanging[mark] = asyncio.Event()
                await self._hanging[mark].wait()
                self.ended.append(what)
                process.exit(143)


class _Visit(asyncssh.SSHServer):
    """One connection to the guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._guest.connections.append(conn)

    def begin_auth(self, _username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "tester" and key == self._guest.lets_in.convert_to_public()

    def session_requested(self) -> Any:
        self._sessions += 1
        if self._sessions > self._guest.sessions:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "no more sessions")
        return asyncssh.SSHServerProcess(self._guest.run, None, 3, False)


@asynccontextmanager
async def booted(folder: Path) -> AsyncIterator[tuple[Guest, SshShell]]:
    guest, shell = Guest(folder), SshShell()
    await guest.boot()
    try:
        yield guest, shell
    finally:
        await shell.close()
        guest.halt()


def inside(folder: Path, scenario: Callable[[Guest, SshShell], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), booted(folder) as (guest, shell):
            await scenario(guest, shell)

    asyncio.run(run())


async def heard(shell: SshShell, login: Login, *argv: str, **options: Any) -> tuple[int, list[str]]:
    lines: list[str] = []
    return await shell.run(login, argv, lines.append, **options), lines


def test_what_is_disconnected_is_connected_to_again(tmp_path: Path) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        await heard(shell, guest.login, "say", "a")
        await shell.disconnect("another")
        await heard(shell, guest.login, "say", "a")
        assert len(guest.connections) == 1
        await shell.disconnect(guest.login.alias)
        assert await heard(shell, guest.login, "say", "b") == (0, ["b"])
        assert len(guest.connections) == 2

    inside(tmp_path, scenario)


def test_words_arrive_as_they_are_and_lines_and_statuses_come_back(tmp_path: Path) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        odd = ["two words", "$HOME", "a'b\"c", "", "*", "; exit 9", "ünï"]
        assert await heard(shell, guest.login, "say", *odd) == (0, odd)
        assert await heard(shell, guest.login, "exit", "7") == (7, ["no end"])
        assert await heard(shell, guest.login, "die", "KILL") == (137, [])
        assert len(guest.connections) == 1

    inside(tmp_path, scenario)


def test_what_a_command_leaves_running_does_not_hold_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_module, "_REST_SECONDS", 0.1)

    async def scenario(guest: Guest, shell: SshShell) -> None:
        assert await heard(shell, guest.login, "linger") == (3, ["begun"])

    inside(tmp_path, scenario)


def test_a_command_that_is_not_wanted_any_more_ends_in_the_guest(tmp_path: Path) -> None:
    def refuse(_line: str) -> None:
        raise ZeroDivisionError

    async def scenario(guest: Guest, shell: SshShell) -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(shell.run(guest.login, ["hang"], lambda _: begun.set()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(guest.ended) == 1
        with pytest.raises(DriverError, match=r"^hang did not end within 0\.1 s on web$"):
            await heard(shell, guest.login, "hang", seconds=0.1)
        assert len(guest.ended) == 2
        with pytest.raises(ZeroDivisionError):
            await shell.run(guest.login, ["hang"], refuse)
        assert len(guest.ended) == 3
        assert len(guest.connections) == 1  # which serves on

    inside(tmp_path, scenario)


def test_a_guest_that_has_no_session_left_gets_another_connection(tmp_path: Path) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        guest.sessions = 1
        assert await heard(shell, guest.login, "say", "a") == (0, ["a"])
        assert await heard(shell, guest.login, "say", "b") == (0, ["b"])
        assert len(guest.connections) == 2
        with pytest.raises(DriverError, match="did not end"):
            await heard(shell, guest.login, "hang", seconds=0.1)
        assert guest.ended == ["hang"]
        guest.sessions = 0
        with pytest.raises(DriverError, match="web refuses to run say: no more sessions"):
            await heard(shell, guest.login, "say", "c")
        assert "c" not in guest.begun

    inside(tmp_path, scenario)


def test_input_is_sent_to_its_end_and_what_breaks_off_ends_the_command(tmp_path: Path) -> None:
    async def pieces(count: int, fault: Exception | None = None) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"\0\r\n\xff" * 1024
        if fault is not None:
            raise fault

    async def scenario(guest: Guest, shell: SshShell) -> None:
        said: list[str] = []
        assert await shell.run(guest.login, ["count"], said.append, stdin=pieces(2000)) == 0
        assert await shell.run(guest.login, ["count"], said.append, stdin=pieces(0)) == 0
        assert await shell.run(guest.login, ["count"], said.append) == 0
        assert said == ["8192000 bytes", "0 bytes", "0 bytes"]
        assert await shell.run(guest.login, ["exit", "3"], str, stdin=pieces(2000)) == 3
        with pytest.raises(KvmComposeError, match="broke off"):
            await shell.run(guest.login, ["hang"], str, stdin=pieces(1, KvmComposeError("it broke off")))
        assert guest.ended == ["hang"]

    inside(tmp_path, scenario)


@pytest.mark.parametrize(("what", "error"), [("reboot", "[Cc]onnection"), ("vanish", "without a status")])
def test_a_connection_that_is_lost_is_an_error_and_the_next_command_gets_another(
    tmp_path: Path, what: str, error: str
) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        with pytest.raises(
            DriverError, match=f"to web was lost while {what} was running: .*{error}"
        ) as caught:
            await heard(shell, guest.login, what)
        assert caught.value.hint
        assert await heard(shell, guest.login, "say", "a") == (0, ["a"])
        assert len(guest.connections) == 2

    inside(tmp_path, scenario)


def test_a_connection_that_has_been_quiet_is_tried_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest was switched off without a word: its end of the connection never said so."""
    monkeypatch.setattr(driver_module, "KEEPALIVE_SECONDS", 0)
    tried: list[asyncssh.SSHClientConnection] = []
    run = asyncssh.SSHClientConnection.run

    async def try_it(connection: asyncssh.SSHClientConnection, *words: Any, **options: Any) -> Any:
        if words == ("true",):
            tried.append(connection)
            if len(tried) == 2:
                raise asyncssh.ConnectionLost("nothing was heard")
        return await run(connection, *words, **options)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "run", try_it)

    async def scenario(guest: Guest, shell: SshShell) -> None:
        for count, connections in ((1, 1), (2, 2)):
            assert await heard(shell, guest.login, "say", "a") == (0, ["a"])
            assert (len(tried), len(guest.connections)) == (count, connections)
        monkeypatch.setattr(driver_module, "KEEPALIVE_SECONDS", 60)
        assert await heard(shell, guest.login, "say", "a") == (0, ["a"])
        assert len(tried) == 2

    inside(tmp_path, scenario)


def test_waiting_says_how_far_it_came(tmp_path: Path) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        login = guest.login
        guest.halt()
        with pytest.raises(DriverError, match=r"within 0 s: .* up, but nothing listens .*\(no SSH server\)"):
            await shell.wait_ready(login, 0.4)
        waiting = asyncio.create_task(shell.wait_ready(login, 20))
        await asyncio.sleep(0.1)
        guest.ready.clear()
        await guest.boot(login.port)
        with pytest.raises(DriverError, match=r"set-up \(cloud-init\) is not complete") as caught:
            await shell.wait_ready(login, 1)
        assert "cloud-init-output.log" in str(caught.value.hint)
        assert not waiting.done()
        guest.ready.set()
        await asyncio.wait_for(waiting, 10)

    inside(tmp_path, scenario)


def test_a_wait_that_was_cut_short_is_no_sign_of_being_ready(tmp_path: Path) -> None:
    """As by a reboot at the end of the first boot."""

    async def scenario(guest: Guest, shell: SshShell) -> None:
        guest.cut_short = 2
        await shell.wait_ready(guest.login, 20)
        assert guest.waited_for == 3

    inside(tmp_path, scenario)


def test_a_guest_that_does_not_answer_is_said_to_have_no_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(connection_module, "_CONNECT_SECONDS", 0.05)

    async def scenario(guest: Guest, shell: SshShell) -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", silent)
        with pytest.raises(DriverError, match=r"cannot reach web: nothing answers at .*no route") as caught:
            await heard(shell, guest.login, "say")
        assert "console" in str(caught.value.hint)

    inside(tmp_path, scenario)


def test_a_key_that_is_refused_for_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest listens before its first boot has installed the key."""

    async def scenario(guest: Guest, shell: SshShell) -> None:
        right, guest.lets_in = guest.lets_in, asyncssh.generate_private_key("ssh-ed25519")
        waiting = asyncio.create_task(shell.wait_ready(guest.login, 20))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        with pytest.raises(DriverError, match=rf"refuses the key {tmp_path}/key for tester") as caught:
            await shell.wait_ready(guest.login, 0.5)
        assert "--provision" in str(caught.value.hint)
        guest.lets_in = right
        await asyncio.wait_for(waiting, 10)
        monkeypatch.setattr(driver_module, "_REFUSES_FOR_GOOD", 0.3)
        other = msgspec.structs.replace(guest.login, user="other")
        started = time.monotonic()
        with pytest.raises(DriverError, match=r"cannot log in to web: .* refuses the key"):
            await shell.wait_ready(other, 25)
        assert time.monotonic() - started < 10

    inside(tmp_path, scenario)


def test_a_key_that_cannot_be_used_is_an_error_at_once(tmp_path: Path) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        lost = msgspec.structs.replace(guest.login, identity_file=tmp_path / "none")
        with pytest.raises(
            DriverError, match=f"cannot use the key {tmp_path}/none to log in to web"
        ) as caught:
            await shell.wait_ready(lost, 20)
        assert "passphrase" in str(caught.value.hint)
        content = guest.lets_in.export_private_key()
        given = msgspec.structs.replace(lost, identity=Secret(content))  # which the client has read
        assert await heard(shell, given, "say", "a") == (0, ["a"])
        assert content.decode() not in repr(given)

    inside(tmp_path, scenario)


def test_a_host_key_is_pinned_until_it_is_forgotten(tmp_path: Path) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        login, known = guest.login, tmp_path / "known_hosts"
        await shell.wait_ready(login, 20)
        first = known.read_text()
        assert first.startswith("p-web ssh-ed25519 ")
        assert known.stat().st_mode & 0o777 == 0o600
        guest.halt()
        guest.key = asyncssh.generate_private_key("ssh-ed25519")
        await guest.boot(login.port)
        for call in (shell.wait_ready(login, 20), heard(shell, login, "say", "secret")):
            with pytest.raises(DriverError, match="has another host key than web had") as caught:
                await call
            assert f"ssh-keygen -R p-web -f {known}" in str(caught.value.hint)
        assert guest.begun == []
        assert known.read_text() == first
        await shell.forget(login)
        assert known.read_text() == ""
        assert await heard(shell, login, "say", "a") == (0, ["a"])
        assert known.read_text() not in ("", first)

    inside(tmp_path, scenario)


def test_another_life_has_another_key(tmp_path: Path) -> None:
    """Provisioned again, with a seed that makes new keys: nobody has to forget the old one by hand."""

    async def scenario(guest: Guest, shell: SshShell) -> None:
        first = msgspec.structs.replace(guest.login, life="one")
        await shell.wait_ready(first, 20)
        noted = (tmp_path / "known_hosts").read_text()
        assert noted.endswith(" one\n")
        guest.halt()
        guest.key = asyncssh.generate_private_key("ssh-ed25519")
        await guest.boot(first.port)
        with pytest.raises(DriverError, match="another host key"):
            await shell.wait_ready(first, 20)
        second = msgspec.structs.replace(first, life="two")
        await shell.wait_ready(second, 20)
        (line,) = (tmp_path / "known_hosts").read_text().splitlines()
        assert line.endswith(" two")
        assert line.split()[2] not in noted
        # restored from a snapshot of before: it has the first key again
        assert await shell.host_key(second) == " ".join(line.split()[1:3])
        await shell.expect(second, " ".join(noted.split()[1:3]))
        with pytest.raises(DriverError, match="another host key"):
            await shell.wait_ready(second, 20)

    inside(tmp_path, scenario)


def test_keys_that_cannot_be_noted_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").mkdir()

    async def scenario(guest: Guest, shell: SshShell) -> None:
        with pytest.raises(DriverError, match="known_hosts"):
            await heard(shell, guest.login, "say", "a")
        with pytest.raises(DriverError, match="known_hosts"):
            await shell.forget(guest.login)
        assert guest.begun == []

    inside(tmp_path, scenario)


def test_closing_closes_every_connection(tmp_path: Path) -> None:
    async def scenario(guest: Guest, shell: SshShell) -> None:
        await heard(shell, guest.login, "say", "a")
        (connection,) = guest.connections
        await shell.close()
        await asyncio.wait_for(connection.wait_closed(), 5)

    inside(tmp_path, scenario)
