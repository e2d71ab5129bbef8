"""Guests that talk without end: neither the server's memory nor its database grows with what they say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import asyncssh
import pytest
from memory import MIB, growth_below

from kvmcompose.core.commands import Exec
from kvmcompose.core.deployment import Level, NewDeployment
from kvmcompose.effects import process
from kvmcompose.hosts import command as machine_module
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.containers.interface.inside import ContainerInside
from kvmcompose.providers.guest.driver import SshShell
from kvmcompose.providers.guest.interface import Login
from kvmcompose.server import action_log
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.api import guest_connection
from kvmcompose.server.orchestrator.runtimes import containers as container_runtime
from kvmcompose.server.orchestrator.testbed import LoadedGuest
from kvmcompose.server.store import Store

if TYPE_CHECKING:
    from starlette.websockets import WebSocket


class _Anybody(asyncssh.SSHServer):
    def begin_auth(self, _username: str) -> bool:
        return False


def test_a_guest_that_answers_without_end_fills_no_memory(tmp_path: Path) -> None:
    """It is asked whether it is ready, and prints for ever on both of its outputs."""
    sent = 0

    async def talk(session: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal sent
        block = b"x" * MIB
        try:
            while True:
                session.stdout.write(block)
                session.stderr.write(block)
                sent += 2
                await session.stdout.drain()
                await session.stderr.drain()
        except (OSError, asyncssh.Error):
            pass

    async def run() -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(tmp_path / "key")
        server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=_Anybody,
            server_host_keys=[key],
            process_factory=talk,
            encoding=None,
        )
        login = Login(
            guest="web", alias="lab-web", address="127.0.0.1", port=server.get_port(), user="root",
            identity_file=tmp_path / "key", known_hosts=tmp_path / "known_hosts", life="",
        )  # fmt: skip
        shell = SshShell()
        while sent <= 100:  # MiB, on a busy machine not at the first time
            with pytest.raises(DriverError, match="was not ready within"):
                await shell.wait_ready(login, 6)
        await shell.close()
        server.close()

    with growth_below(64):
        asyncio.run(run())


def test_a_program_that_prints_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "MOST_OUTPUT", 4 * MIB)
    with pytest.raises(DriverError, match="yes printed more than 4 MiB on main"):
        asyncio.run(LocalRunner("main").run(["yes"], seconds=60))
    done = asyncio.run(LocalRunner("main").run(["sh", "-c", "yes | head -c 9000000 >&2; echo end"]))
    assert done.text == "end\n"
    assert len(done.stderr) < MIB
    assert asyncio.run(LocalRunner("main").run(["cat"], stdin=b"y" * 3_000_000)).stdout == b"y" * 3_000_000


def test_a_program_of_the_client_that_prints_without_end_is_ended() -> None:
    ended = pytest.raises(process.ProcessError, match="yes was ended: it printed more than 64 MiB")
    with growth_below(3 * 64), ended:  # it grows by doubling
        process.run(["yes"], timeout=60)
    done = process.run(["sh", "-c", "yes | head -c 9000000 >&2; echo end; echo last >&2"])
    assert done.stdout == b"end\n"
    assert done.stderr.endswith(b"last\n")
    assert len(done.stderr) < MIB


def test_a_program_of_the_client_gets_its_input_and_keeps_to_its_time() -> None:
    data = bytes(range(256)) * 10_000
    assert process.run(["cat"], stdin=data).stdout == data
    assert process.run(["true"], stdin=data).stdout == b""
    assert process.run(["cat"], stdin=b"").stdout == b""
    closing = ["sh", "-c", "exec >&- 2>&-; sleep 60"]
    for argv in (["sh", "-c", "sleep 60 & echo begun"], ["sh", "-c", "yes >&2"], closing):
        with pytest.raises(process.ProcessError, match=r"did not end within 0\.1 s"):
            process.run(argv, timeout=0.1)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, ActionLog]:
    for name, value in (("OUTPUT_LINES", 1000), ("OUTPUT_BYTES", MIB), ("_BATCH_LINES", 100)):
        monkeypatch.setattr(action_log, name, value)
    store = Store(tmp_path / "server.db")
    store.put_deployment(NewDeployment("lab", "/lab"))
    action = store.begin_action("lab", Exec(guest="web", argv=("yes",)), None, exclusive=False)
    return store, ActionLog(store, action.uuid)


def test_of_output_the_newest_is_kept_and_it_is_said(begun: tuple[Store, ActionLog]) -> None:
    store, log = begun
    log.say("before")
    for number in range(5000):
        log.say(f"{number}", Level.OUTPUT)
    log.conclude()
    lines = store.lines(log.uuid, limit=100_000)
    output = [line.text for line in lines if line.level is Level.OUTPUT]
    assert 900 <= len(output) <= 1100
    assert output == [str(number) for number in range(5000 - len(output), 5000)]
    said = [line.text for line in lines if line.level is not Level.OUTPUT]
    assert said[0] == "before"
    assert sum("only the newest lines are kept" in text for text in said) == 1
    assert said[-1] == f"{5000 - len(output)} lines of output were dropped"


def test_the_database_does_not_grow_with_output(begun: tuple[Store, ActionLog], tmp_path: Path) -> None:
    _, log = begun
    for _ in range(4000):
        log.say("x" * 4000, Level.OUTPUT)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 10 * MIB


def test_a_follower_copes_with_gaps(begun: tuple[Store, ActionLog]) -> None:
    store, log = begun

    async def run() -> list[int]:
        seen: list[int] = []

        async def read() -> None:
            async for line in action_log.follow(store, log, log.uuid, 0):
                seen.append(line.sequence)  # noqa: PERF401 (one at a time, as they come)

        reading = asyncio.create_task(read())
        for number in range(5000):
            log.say(f"{number}", Level.OUTPUT)
            if number == 10:
                await asyncio.sleep(0.01)
        log.end()
        await reading
        return seen

    seen = asyncio.run(run())
    assert seen == sorted(set(seen))
    assert seen[:11] == list(range(1, 12))
    assert len(seen) < 1300


class _Endless:
    """Containers whose ``sh`` prints until it is ended."""

    async def run(self, *_where: Any, seconds: float | None = None, user: str = "", **_others: Any) -> int:
        on_line: Callable[[str], None] = _where[3]
        async with asyncio.timeout(seconds):
            for number in range(512 << 4):  # 512 MiB, in case that nothing ends it
                on_line(f"{user}{number}".ljust(1 << 16))
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        return 0

    async def logs(self, *_where: Any, **_others: Any) -> AsyncGenerator[str]:
        for number in range(512 << 4):
            yield f"{number}".ljust(1 << 16)
            await asyncio.sleep(0)
        await asyncio.Event().wait()


@pytest.mark.parametrize("what", ["console", "console_end"])
def test_a_log_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """An engine may answer with more than was asked for, and never end."""
    monkeypatch.setattr(container_runtime, "LOOK_SECONDS", 2)
    guest = cast("LoadedGuest", SimpleNamespace(state=SimpleNamespace(domain="p-g", identity="g"), name="g"))
    host = SimpleNamespace(engine=SimpleNamespace(inside=_Endless()))
    context: Any = SimpleNamespace(project="p", host_of=lambda *_: host)
    testbed: Any = None

    async def read() -> None:
        async with asyncio.timeout(20):
            if what == "console":
                await container_runtime.console(context, testbed, guest, None, 0)
            else:
                await container_runtime.console_end(context, testbed, guest, 5)

    ended = pytest.raises(DriverError, match="the log of g does not end within 2 s")
    with growth_below(128), ended:
        asyncio.run(read())


def test_the_shell_of_a_container_that_prints_without_end_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``exec --user`` asks it whether there is such a user."""
    monkeypatch.setattr(container_runtime, "_CHECK_SECONDS", 2)
    guest = cast("LoadedGuest", SimpleNamespace(state=SimpleNamespace(domain="p-g", identity="g"), name="g"))
    entrance = container_runtime.ContainerEntrance(cast("ContainerInside", _Endless()), "p", guest)

    async def check() -> None:
        async with asyncio.timeout(20):
            await entrance.check_user("somebody")

    started = time.monotonic()
    with growth_below(128), pytest.raises(TimeoutError):
        asyncio.run(check())
    assert time.monotonic() - started < 15


def test_a_connection_to_a_guest_that_sends_all_the_time_stops_nothing_else() -> None:
    class Taking:
        """A client that takes everything at once."""

        pieces = 0

        async def send_bytes(self, _data: bytes) -> None:
            self.pieces += 1

    async def run() -> tuple[int, int]:
        guest, endpoint = socket.socketpair()
        with guest, endpoint:
            for each in (guest, endpoint):
                each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    guest.send(b"x" * 4096)
            guest.shutdown(socket.SHUT_WR)
            turns, client = 0, Taking()

            async def others() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            waiting = asyncio.create_task(others())
            await guest_connection._from_guest(cast("WebSocket", client), endpoint)
            waiting.cancel()
            return turns, client.pieces

    turns, pieces = asyncio.run(run())
    assert pieces > 2
    assert turns >= pieces - 1
