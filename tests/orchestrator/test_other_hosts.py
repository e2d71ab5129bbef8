"""The connection to another host, and what is done over it: whose keys, what is lost, what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import asyncssh
import msgspec
import pytest
from other_host import NAP, OtherHost, on_other_host, running, until

from kvmcompose.core.model import Host
from kvmcompose.hosts import connection as connection_module
from kvmcompose.hosts import remote as remote_module
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.errors import DriverError, HostLostError
from kvmcompose.hosts.forwarding import ForwardedSocket
from kvmcompose.hosts.remote import SshRunner


def test_what_is_roots_goes_through_sudo_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(host: OtherHost, _connection: HostConnection, runner: SshRunner) -> None:
        await runner.run(["true"])
        assert "sudo" not in host.lines[-1]
        await runner.run(["true"], privileged=True, check=False)
        assert "sudo -n -- timeout" in host.lines[-1]
        with contextlib.suppress(DriverError):
            _ = [chunk async for chunk in runner.stream(["true"], privileged=True)]
        assert "sudo -n -- sh" in host.lines[-1]
        _ = [chunk async for chunk in runner.stream(["true"])]
        assert "sudo" not in host.lines[-1]

    on_other_host(tmp_path, scenario)


def test_a_user_that_ssh_config_names_needs_sudo_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host *\n  User ann\n")

    async def scenario(host: OtherHost, _connection: HostConnection, _runner: SshRunner) -> None:
        connection = HostConnection(msgspec.structs.replace(host.host, user=None))
        await SshRunner(connection).run(["true"], privileged=True, check=False)
        assert "sudo -n -- timeout" in host.lines[-1]
        assert connection.where == "two (ann@127.0.0.1)"
        await connection.close()

    on_other_host(tmp_path, scenario)


def test_a_status_of_timeout_is_believed_after_the_time_only(tmp_path: Path) -> None:
    """Programs may end with 124 themselves."""

    async def scenario(_host: OtherHost, _connection: HostConnection, runner: SshRunner) -> None:
        assert (await runner.run(["sh", "-c", "exit 124"], check=False)).status == 124
        done = await runner.run(["sh", "-c", "sleep 0.6; exit 5"], seconds=5, check=False)
        assert done.status == 5

    on_other_host(tmp_path, scenario)


def test_commands_share_a_connection_that_comes_back(tmp_path: Path) -> None:
    async def scenario(host: OtherHost, connection: HostConnection, runner: SshRunner) -> None:
        await asyncio.gather(*(runner.run(["true"]) for _ in range(5)))
        assert len(host.connections) == 1
        task = asyncio.create_task(runner.run(["sleep", NAP]))
        await until(lambda: running(f"sleep {NAP}"))
        host.crash()
        with pytest.raises(HostLostError, match=r"^the connection to two \(ann@127\.0\.0\.1\) was lost"):
            await task
        assert (await runner.run(["echo", "a"])).text == "a\n"
        assert len(host.connections) == 1
        host.halt()
        await until(lambda: connection._open is None or connection._open.is_closed())
        with pytest.raises(
            HostLostError, match=r"^cannot reach two .* by SSH: connection refused$"
        ) as caught:
            await runner.run(["true"])
        assert "ssh ann@127.0.0.1 true" in str(caught.value.hint)
        assert host.host.ssh_port is not None
        await host.boot(host.host.ssh_port)
        assert (await runner.run(["echo", "b"])).text == "b\n"

    on_other_host(tmp_path, scenario)


def test_who_is_not_let_in_or_is_another_host_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    async def scenario(host: OtherHost, _connection: HostConnection, _runner: SshRunner) -> None:
        other = asyncssh.generate_private_key("ssh-ed25519")
        other.write_private_key(tmp_path / "other-key")
        shown = " ".join(host.key.export_public_key("openssh").decode().split()[:2])
        wrong = {
            "denies access": {"identity_file": str(tmp_path / "other-key")},
            "cannot use the key": {"identity_file": str(tmp_path / "none")},
            "a host key that is not the one in host_key": {
                "host_key": other.export_public_key("openssh").decode().strip()
            },
            "is not a valid public key": {"host_key": "ssh-ed25519 AAAA"},
        }
        hints = {}
        for message, changes in wrong.items():
            connection = HostConnection(msgspec.structs.replace(host.host, **changes))
            with pytest.raises(DriverError, match=message) as caught:
                await connection.get()
            assert not isinstance(caught.value, HostLostError)  # waiting for it would not help
            hints[message] = str(caught.value.hint)
            await connection.close()
        assert f"ssh-copy-id -i {tmp_path}/other-key ann@127.0.0.1" in hints["denies access"]
        assert f'"host_key": "{shown}"' in hints["a host key that is not the one in host_key"]

    on_other_host(tmp_path, scenario)


def test_a_host_without_a_pinned_key_is_looked_up_in_known_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    known = tmp_path / ".ssh/known_hosts"

    async def scenario(host: OtherHost, _connection: HostConnection, _runner: SshRunner) -> None:
        there = msgspec.structs.replace(host.host, host_key=None)
        with pytest.raises(DriverError, match="a host key that is not the one in known_hosts"):
            await HostConnection(there).get()
        key = host.key.export_public_key("openssh").decode()
        known.write_text(f"[127.0.0.1]:{there.ssh_port} {key}")
        connection = HostConnection(there)
        await connection.get()
        await connection.close()
        known.write_text("@unknown-marker * ssh-ed25519 AAAA\n")
        with pytest.raises(DriverError, match=r"cannot read the host key of two from ") as caught:
            await HostConnection(there).get()
        assert "host_key" in str(caught.value.hint)

    on_other_host(tmp_path, scenario)


def test_a_host_that_refuses_sessions_is_asked_again_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshd frees a session when its program has ended, which one that was given up may not have yet."""
    monkeypatch.setattr(remote_module, "_SLACK", 0.3)

    async def scenario(host: OtherHost, _connection: HostConnection, runner: SshRunner) -> None:
        host.sessions = 1
        await runner.run(["true"])
        task = asyncio.create_task(runner.run(["echo", "a"]))
        await asyncio.sleep(0.15)
        host.sessions = 100
        assert (await task).text == "a\n"
        host.sessions = 0
        with pytest.raises(DriverError, match="refuses to run a program: no more sessions"):
            await runner.run(["true"])

    on_other_host(tmp_path, scenario)


def test_what_is_given_up_ends_also_when_no_session_is_left(tmp_path: Path) -> None:
    """It may be what is to be ended that has them all."""

    async def scenario(host: OtherHost, _connection: HostConnection, runner: SshRunner) -> None:
        host.sessions = 1
        task = asyncio.create_task(runner.run(["sleep", NAP]))
        await until(lambda: running(f"sleep {NAP}"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not running(f"sleep {NAP}"))
        assert len(host.connections) == 2

    on_other_host(tmp_path, scenario)


class Member:
    """The files of a user, as the server reads them with that user's rights."""

    name = "ann"

    def __init__(self, home: Path) -> None:
        self.home = home

    def expand(self, path: str) -> Path:
        return Path(path.replace("~", str(self.home)))

    def read(self, path: Path, limit: int) -> bytes:
        return path.read_bytes()[:limit]


def test_a_members_host_is_reached_with_the_members_keys_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, servers = tmp_path / "ann", tmp_path / "server"
    for each in (home, servers):
        (each / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(servers))

    async def scenario(host: OtherHost, _connection: HostConnection, _runner: SshRunner) -> None:
        known = f"[127.0.0.1]:{host.host.ssh_port} {host.key.export_public_key('openssh').decode()}"
        there = msgspec.structs.replace(host.host, user=None, identity_file=None, host_key=None)

        async def reach(there: Host = there) -> None:
            connection = HostConnection(there, Member(home))  # type: ignore[arg-type]
            try:
                await connection.get()
            finally:
                await connection.close()

        # what the server's own user has does not count
        host.user_key.write_private_key(servers / ".ssh/id_ed25519")
        (servers / ".ssh/known_hosts").write_text(known)
        with pytest.raises(DriverError, match=r"^ann has no key to log in to two$"):
            await reach()
        host.user_key.write_private_key(home / ".ssh/id_ed25519")
        with pytest.raises(DriverError, match="a host key that is not the one in known_hosts"):
            await reach()
        (home / ".ssh/known_hosts").write_text(known)
        await reach()
        named = msgspec.structs.replace(there, identity_file="~/named")
        with pytest.raises(DriverError, match="cannot use the key ~/named of ann to log in to two") as caught:
            await reach(named)
        assert "no passphrase" in str(caught.value.hint)
        host.user_key.write_private_key(home / "named")
        await reach(named)

    on_other_host(tmp_path, scenario)


def test_a_socket_of_the_other_host_is_reached_by_one_here(tmp_path: Path) -> None:
    """Both ways and to the end of each, by the first that listens, also after the connection was lost."""
    there, here = tmp_path / "there", tmp_path / "here"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # to the end of what is sent
        writer.write(b"heard " + data)
        await writer.drain()
        writer.close()

    async def ask() -> bytes:
        reader, writer = await asyncio.open_unix_connection(here)
        writer.write(b"x" * 100_000)
        await writer.drain()
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    async def scenario(host: OtherHost, connection: HostConnection, _runner: SshRunner) -> None:
        server = await asyncio.start_unix_server(echo, there)
        forwarded = ForwardedSocket(connection, here, (str(tmp_path / "none"), str(there)))
        assert await ask() == b"heard " + b"x" * 100_000
        host.crash()
        await until(lambda: connection._open is None or connection._open.is_closed())
        assert await ask() == b"heard " + b"x" * 100_000
        server.close()
        there.unlink(missing_ok=True)
        assert await ask() == b""  # and it goes on listening
        assert await ask() == b""
        await forwarded.close()
        assert not here.exists()

    on_other_host(tmp_path, scenario)


def test_a_stream_does_not_wait_for_ever_for_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "BEGIN_SECONDS", 0.2)

    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    async def scenario(_host: OtherHost, _connection: HostConnection, runner: SshRunner) -> None:
        await runner.reach()
        monkeypatch.setattr(asyncssh.SSHClientConnection, "create_process", never)
        started = time.monotonic()
        for call in (runner.run(["true"]), anext(runner.stream(["true"]))):
            with pytest.raises(
                DriverError, match=r"two \(ann@127\.0\.0\.1\) did not start true within 0\.2 s"
            ):
                await call
        assert time.monotonic() - started < 10

    on_other_host(tmp_path, scenario)


def test_a_host_that_was_waited_for_in_vain_is_not_waited_for_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An action looks at a host in several ways, one after the other."""
    monkeypatch.setattr(connection_module, "_CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(connection_module, "_AGAIN_SECONDS", 0.2)
    visits: list[asyncio.StreamWriter] = []

    async def scenario(host: OtherHost, _connection: HostConnection, _runner: SshRunner) -> None:
        silent = await asyncio.start_server(lambda _, writer: visits.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        connection = HostConnection(msgspec.structs.replace(host.host, ssh_port=port))
        for _ in range(3):
            with pytest.raises(HostLostError, match="cannot reach two"):
                await connection.get()
        assert len(visits) == 1
        await asyncio.sleep(0.25)
        with pytest.raises(HostLostError):
            await connection.get()
        assert len(visits) == 2
        for writer in visits:
            writer.close()
        silent.close()

    on_other_host(tmp_path, scenario)
