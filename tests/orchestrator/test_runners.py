"""Programs on this machine and on another host: both runners run them alike."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from other_host import NAP, OtherHost, on_other_host, running, until

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.remote import SshRunner


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


def test_one_that_is_cancelled_while_it_starts_leaves_no_child(on: Callable[..., None]) -> None:
    async def scenario(runner: CommandRunner) -> None:
        await runner.run(["true"])
        for turns in range(12):
            task = asyncio.create_task(runner.run(["sh", "-c", f"sleep {NAP} & sleep {NAP}"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(0.05)  # noqa: ASYNC251 (the program goes on while this process does not look)
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


def test_ports_of_the_host_are_connected_to(on: Callable[..., None]) -> None:
    data = bytes(range(256)) * 4096

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()
        writer.close()

    async def scenario(runner: CommandRunner) -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        endpoint = await runner.connect("127.0.0.1", port)
        assert endpoint.getblocking() is False
        reader, writer = await asyncio.open_connection(sock=endpoint)
        sending = asyncio.create_task(_send(writer, data))
        assert await reader.readexactly(len(data)) == data
        await sending
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        with pytest.raises(DriverError, match=f"cannot connect to 127.0.0.1, port {port}, on (main|two)"):
            await runner.connect("127.0.0.1", port)
        assert isinstance(runner, LocalRunner | SshRunner)
        await runner.close()

    on(scenario)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
