"""A port of a guest is waited for: by TCP and HTTP, whatever a hostile server answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kvmcompose.core.ready import HttpReady
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.guest import answers
from kvmcompose.providers.guest.interface import Login

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def login(port: int) -> Login:
    return Login(
        guest="web",
        alias="lab-web",
        address="127.0.0.1",
        user="nocloud",
        identity_file=Path("key"),
        known_hosts=Path("known"),
        port=port,
    )


def answering(text: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(text)

    return serve


def closing(serve: Serve) -> Serve:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    return served


def wait(serve: Serve, http: HttpReady | None = None, seconds: float = 0.6) -> None:
    async def run() -> None:
        server = await asyncio.start_server(closing(serve), "127.0.0.1", 0)
        async with server:
            try:
                await answers.wait_answer(login(server.sockets[0].getsockname()[1]), seconds, http)
            finally:
                await asyncio.sleep(0.05)  # for the connections to be closed

    asyncio.run(run())


def test_a_port_that_accepts_is_enough() -> None:
    wait(answering(b""))


def test_a_port_that_opens_late() -> None:
    async def run() -> None:
        server = await asyncio.start_server(answering(b""), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        waiting = asyncio.create_task(answers.wait_answer(login(port), 10, None))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        async with await asyncio.start_server(closing(answering(b"")), "127.0.0.1", port):
            await waiting
            await asyncio.sleep(0.05)

    asyncio.run(run())


def test_the_request_is_a_plain_one() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    wait(serve, HttpReady(path="/health?full=1"))
    assert seen[0].startswith(b"GET /health?full=1 HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize("line", [b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.0 301\r\n", b"HTTP/1.1 200 \n"])
def test_services_that_work(line: bytes) -> None:
    wait(answering(line), HttpReady())


@pytest.mark.parametrize(
    ("text", "http", "cause"),
    [
        (b"HTTP/1.1 503 Busy\r\n", HttpReady(), "it answers with status 503"),
        (b"HTTP/1.1 200 OK\r\n", HttpReady(status=204), "it answers with status 200"),
        (b"SSH-2.0-\x1b[31mevil\r\n", HttpReady(), r"no HTTP server: 'SSH-2.0-\\\\x1b[31mevil'"),
        (b"x" * 100_000, HttpReady(), "no HTTP server: '" + "x" * 60 + "'"),
        (b"", HttpReady(), "closed the connection unanswered"),
    ],
)
def test_the_last_cause_is_said(text: bytes, http: HttpReady, cause: str) -> None:
    with pytest.raises(DriverError, match=re.escape(cause).replace(r"\\\\", r"\\")) as raised:
        wait(answering(text), http)
    assert "it was waited for http://127.0.0.1:" in raised.value.message


def test_a_server_that_answers_nothing_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_ANSWER_SECONDS", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.read()

    with pytest.raises(DriverError, match="takes connections, but answered nothing"):
        wait(serve, HttpReady())


def test_a_port_that_nothing_listens_on() -> None:
    async def run() -> None:
        server = await asyncio.start_server(answering(b""), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await answers.wait_answer(login(port), 0.3, None)

    with pytest.raises(DriverError, match=r"waited for TCP port \d+; .* nothing listens on port"):
        asyncio.run(run())
