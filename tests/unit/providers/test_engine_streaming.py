"""Streams of a container engine, against an engine that answers what a test says."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.streaming import EngineError, complaint_in, opened, outputs

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def engine(tmp_path: Path, answer: Answer) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    path = str(tmp_path / "engine.sock")
    async with await asyncio.start_unix_server(serve, path):
        yield path


async def received(reader: asyncio.StreamReader, end: bytes = b"\r\n\r\n") -> bytes:
    return await reader.readuntil(end)


async def numbers() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d" % number


def frame(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(content)) + content


async def read(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([each async for each in pieces])


def test_a_body_is_sent_in_pieces_and_the_answer_read_meanwhile(tmp_path: Path) -> None:
    requests = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await received(reader))
        writer.write(OK + b"3\r\nabc\r\n")  # before the body has come
        requests.append(await received(reader, b"0\r\n\r\n"))
        writer.write(b"2\r\nde\r\n0\r\n\r\n")

    async def run() -> None:
        async with engine(tmp_path, answer) as path, opened(path, "POST", "/build", body=numbers()) as stream:
            assert await read(stream.read()) == b"abcde"

    asyncio.run(run())
    assert requests[0].startswith(b"POST /build HTTP/1.1\r\n")
    assert requests[1] == b"1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n"


def test_what_comes_with_the_head_of_an_upgraded_connection_is_not_lost(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await received(reader, b"{}")
        writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + b"early")
        await writer.drain()
        writer.write(await reader.read(-1))  # to the end that the client sends

    async def run() -> None:
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        async with (
            engine(tmp_path, answer) as path,
            opened(path, "POST", "/exec/1/start", headers=headers, body=b"{}") as stream,
        ):
            await stream.write(b" and late")
            stream.write_end()
            assert await read(stream.read()) == b"early and late"

    asyncio.run(run())


@pytest.mark.parametrize("upgraded", [False, True])
def test_what_prints_all_the_time_stops_nothing_else(tmp_path: Path, upgraded: bool) -> None:
    """What has come is read in several pieces, and others have their turn between these."""
    content = b"y\n" * (80 << 10)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await received(reader)
        head = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        writer.write(head if upgraded else OK + b"%x\r\n" % len(content))
        writer.write(content)
        await reader.read(-1)

    async def run() -> tuple[int, int]:
        turns = pieces = left = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        headers = {"Connection": "Upgrade", "Upgrade": "tcp"} if upgraded else {}
        async with engine(tmp_path, answer) as path, opened(path, "GET", "/x", headers=headers) as stream:
            await asyncio.sleep(0.1)
            waiting = asyncio.create_task(others())
            left = len(content)
            async for piece in stream.read():
                pieces, left = pieces + 1, left - len(piece)
                if left <= 0:
                    break
            found = turns
            waiting.cancel()
        return found, pieces

    found, pieces = asyncio.run(asyncio.wait_for(run(), 8))
    assert pieces > 2
    assert found >= pieces - 2  # the first turn starts the task


def test_a_refusal_is_the_engines_message(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await received(reader)
        writer.write(b'HTTP/1.1 409 Conflict\r\nContent-Length: 18\r\n\r\n{"message":"taken"}'[:-1] + b"}")

    async def run() -> None:
        async with engine(tmp_path, answer) as path:
            with pytest.raises(EngineError, match=r"taken") as caught:
                async with opened(path, "GET", "/x"):
                    raise AssertionError
        assert caught.value.status == 409

    asyncio.run(run())


def test_what_a_body_raises_is_raised(tmp_path: Path) -> None:
    """The engine waits for the rest of the body, and would for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise KeyError("source")

    async def run() -> None:
        async with engine(tmp_path, answer) as path:
            with pytest.raises(KeyError):
                async with opened(path, "POST", "/images/load", body=broken()):
                    raise AssertionError

    asyncio.run(run())


@pytest.mark.parametrize("answered", [b"", b"nonsense\r\n\r\n", OK + b"5\r\nab"])
def test_an_answer_that_is_cut_off_or_invalid_is_an_error(tmp_path: Path, answered: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await received(reader)
        writer.write(answered)

    async def run() -> None:
        async with engine(tmp_path, answer) as path:
            with pytest.raises(EngineError):
                async with opened(path, "GET", "/x") as stream:
                    await read(stream.read())

    asyncio.run(run())


def test_outputs_are_put_together_wherever_they_are_cut() -> None:
    sent = frame(1, b"out") + frame(2, b"") + frame(3, b"engine") + frame(2, b"err")

    async def cut(size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(sent), size):
            yield sent[start : start + size]

    for size in range(1, len(sent) + 1):
        said: list[bytes] = []
        assert asyncio.run(read(outputs(cut(size), said.append))) == b"outerr"
        assert b"".join(said) == b"engine"
        assert asyncio.run(read(outputs(cut(size)))) == b"outengineerr"


def test_output_of_an_unknown_kind_is_refused() -> None:
    async def odd() -> AsyncIterator[bytes]:
        yield frame(4, b"x")

    with pytest.raises(DriverError, match="invalid output"):
        asyncio.run(read(outputs(odd())))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"message": "No such image: x"}', "No such image: x"),
        (b'{"cause": "y"}', '{"cause": "y"}'),
        (b"[1", "[1"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"", "(no message)"),
    ],
)
def test_complaints(body: bytes, text: str) -> None:
    assert complaint_in(body) == text
