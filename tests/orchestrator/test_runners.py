"""Programs on this machine and on another host, an SSH server of this process: both run them alike."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
import pytest

from kvmcompose.core.model import Host
from kvmcompose.hosts import remote as remote_module
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.errors import DriverError, HostLostError
from kvmcompose.hosts.forwarding import ForwardedSocket
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.remote import SshRunner

Process = asyncssh.SSHServerProcess[bytes]


class OtherHost:
    """A host that runs what it is asked to with a shell, as sshd does."""

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
        """Break all connections, and end all that runs."""
        for each in self.connections:
            each.abort()
        self.connections = []
        for pid in self._programs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    async def over(self) -> None:
        """Wait for the end of its programs."""
        while self._programs:  # noqa: ASYNC110 (they go one by one)
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
        while await source.read(1 << 16):  # nobody takes it: it must not block the program
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


@pytest.fixture(params=["local", "remote"])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Runs a scenario with a runner of either kind."""

    def run(scenario: Callable[[CommandRunner], Awaitable[None]]) -> None:
        async def on_this_machine() -> None:
            async with asyncio.timeout(40):
                await scenario(LocalRunner("main"))

        async def on_the_other(_host: OtherHost, _connection: HostConnection, runner: SshRunner) -> None:
            await scenario(runner)

        if request.param == "local":
            asyncio.run(on_this_machine())
        else:
            on_other_host(tmp_path, on_the_other)

    return run


#: A length of sleep that nobody else has.
NAP = f"44{os.getpid()}"


def running(words: str) -> bool:
    """Whether a program with these words runs on this machine."""
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words.replace(" ", "\0").encode() + b"\0" == (each / "cmdline").read_bytes():
                return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (processes have no event)
            await asyncio.sleep(0.02)


def test_words_arrive_and_what_is_printed_and_the_status_come_back(on: Callable[..., None]) -> None:
    odd = ["two words", "$HOME", "a'b\"c", "", "*", "; exit 9", "ünï", "a\nb"]

    async def scenario(runner: CommandRunner) -> None:
        done = await runner.run(["printf", "<%s>", *odd])
        assert done.text == "".join(f"<{word}>" for word in odd)
        done = await runner.run(["sh", "-c", "echo out; echo first >&2; echo last >&2; exit 7"], check=False)
        assert (done.status, done.stdout, done.complaint) == (7, b"out\n", "last")
        assert (await runner.run(["sh", "-c", "sort /nowhere"], check=False)).complaint == (
            "sort: cannot read: /nowhere: No such file or directory"
        )
        long = ["x" * 1000] * 200  # more than sshd passes to a shell as one word
        assert (await runner.run(["echo", *long])).stdout == " ".join(long).encode() + b"\n"

    on(scenario)


def test_what_is_given_arrives_whole(on: Callable[..., None]) -> None:
    data = bytes(range(256)) * 4000

    async def scenario(runner: CommandRunner) -> None:
        assert (await runner.run(["cat"], stdin=data)).stdout == data
        assert (await runner.run(["cat"])).stdout == b""
        assert (await runner.run(["true"], stdin=data)).stdout == b""  # it reads nothing of it
        script = ["sh", "-c", "cat; echo $1", "sh", *(["x" * 1000] * 200)]
        assert (await runner.run(script, stdin=data)).stdout == data + b"x" * 1000 + b"\n"

    on(scenario)


def test_failures_say_how_to_reproduce_them(on: Callable[..., None]) -> None:
    async def scenario(runner: CommandRunner) -> None:
        with pytest.raises(DriverError, match=rf"^sh failed with status 3 on {runner.name}: no$") as caught:
            await runner.run(["sh", "-c", "echo no >&2; exit 3"])
        assert caught.value.hint == "to reproduce: sh -c 'echo no >&2; exit 3'"
        with pytest.raises(DriverError, match=rf"'no-such-program' is not installed on {runner.name}"):
            await runner.run(["no-such-program", "word"])

    on(scenario)


def test_a_program_that_takes_too_long_is_ended_with_its_children(on: Callable[..., None]) -> None:
    async def scenario(runner: CommandRunner) -> None:
        with pytest.raises(DriverError, match=rf"^sh did not end within 1 s on {runner.name}$") as caught:
            await runner.run(["sh", "-c", f"sleep {NAP} & sleep {NAP}"], seconds=1)
        assert "to reproduce" in str(caught.value.hint)
        await until(lambda: not running(f"sleep {NAP}"))
        assert (await runner.run(["echo", "a"])).text == "a\n"

    on(scenario)


def test_a_program_that_is_not_wanted_any_more_is_ended_with_its_children(on: Callable[..., None]) -> None:
    async def scenario(runner: CommandRunner) -> None:
        task = asyncio.create_task(runner.run(["sh", "-c", f"sleep {NAP} & sleep {NAP}"]))
        await until(lambda: running(f"sleep {NAP}"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not running(f"sleep {NAP}"))

    on(scenario)


def test_a_stream_comes_as_it_is_printed_and_ends_with_its_reader(on: Callable[..., None]) -> None:
    async def scenario(runner: CommandRunner) -> None:
        chunks = [chunk async for chunk in runner.stream(["printf", "a\\nb"])]
        assert b"".join(chunks) == b"a\nb"
        assert b"" not in chunks
        packets = runner.stream(["sh", "-c", f"echo begun; exec sleep {NAP}"])
        assert await asyncio.wait_for(anext(packets), 20) == b"begun\n"
        await until(lambda: running(f"sleep {NAP}"))
        await packets.aclose()
        assert not running(f"sleep {NAP}")

    on(scenario)


def test_a_stream_that_fails_says_why(on: Callable[..., None]) -> None:
    async def scenario(runner: CommandRunner) -> None:
        lines = runner.stream(["sh", "-c", "echo yes; echo no >&2; exit 3"])
        assert await anext(lines) == b"yes\n"
        with pytest.raises(DriverError, match=rf"^sh failed with status 3 on {runner.name}: no$"):
            await anext(lines)

    on(scenario)


def test_messages_are_in_english_and_tools_of_the_system_are_found(
    on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", str(Path(shutil.which("env") or "").parent))

    async def scenario(runner: CommandRunner) -> None:
        shown = dict(
            line.split("=", 1) for line in (await runner.run(["env"])).text.splitlines() if "=" in line
        )
        assert shown["LC_ALL"] == "C"
        assert "/usr/sbin" in shown["PATH"].split(":")

    on(scenario)


# -- the other host alone


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
            "another host key than the one in host_key": {
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
        assert f'"host_key": "{shown}"' in hints["another host key than the one in host_key"]

    on_other_host(tmp_path, scenario)


def test_a_host_without_a_pinned_key_is_looked_up_in_known_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    known = tmp_path / ".ssh/known_hosts"

    async def scenario(host: OtherHost, _connection: HostConnection, _runner: SshRunner) -> None:
        there = msgspec.structs.replace(host.host, host_key=None)
        with pytest.raises(DriverError, match="another host key than the one in known_hosts"):
            await HostConnection(there).get()
        key = host.key.export_public_key("openssh").decode()
        known.write_text(f"[127.0.0.1]:{there.ssh_port} {key}")
        connection = HostConnection(there)
        await connection.get()
        await connection.close()
        known.write_text("\0 \1\n@ x y z\n")
        with pytest.raises(DriverError):
            await HostConnection(there).get()

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
