"""Streams of the Docker Engine API: requests whose bodies, or answers, are as long as they like.

The Docker SDK reads streams in blocking calls that cannot be ended, and loses what an engine sends together
with the head of an upgraded connection. So they have a connection each, in asyncio: closing it ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import h11
import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Pieces

_CHUNK = 1 << 16
#: How long an engine may take to begin its answer once it has the request, in seconds.
BEGIN_SECONDS = 60.0
#: The longest error of an engine that is read, in bytes.
_LONGEST_ERROR = 1 << 16
#: The head of a piece of output (Docker Engine API, "Attach to a container"): stream, three zeros, length.
_HEAD = struct.Struct(">BxxxL")
#: The stream on which an engine reports its own errors.
_ENGINE = 3


class EngineError(Exception):
    """An engine refused a request. ``status`` is that of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class EngineStream:
    """One request on a connection of its own.

    It is a socket, not asyncio's streams: there, a failure to write discards what has come and was not read,
    such as the output of a command that does not read its input.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._protocol = h11.Connection(h11.CLIENT)
        self._status = 0

    async def send(self, method: str, target: str, headers: Mapping[str, str], body: Pieces) -> None:
        """Send the request with its body. Its end is never sent when ``body`` raises."""
        fields = {"Host": "engine", **headers}
        await self._write(
            self._protocol.send(h11.Request(method=method, target=target, headers=list(fields.items())))
        )
        try:
            async for piece in body:
                if piece:
                    await self._write(self._protocol.send(h11.Data(data=piece)))
        except BaseException:
            with contextlib.suppress(OSError):  # the engine would wait for the rest, and we for its answer
                self._socket.shutdown(socket.SHUT_RDWR)
            raise
        await self._write(self._protocol.send(h11.EndOfMessage()))

    async def begin(self) -> None:
        """Read the head of the answer. Raises EngineError when the engine refuses."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101  # noqa: PLR2004
            ):
                break
            if not isinstance(event, h11.InformationalResponse):
                raise EngineError(0, "the connection was closed")
        self._status = event.status_code
        if event.status_code >= 400:  # noqa: PLR2004
            raise EngineError(event.status_code, await self._complaint())

    async def read(self) -> AsyncGenerator[bytes]:
        """Yield the answer; or, of an upgraded connection, what comes."""
        if self._status == 101:  # noqa: PLR2004
            data = self._protocol.trailing_data[0]
            with contextlib.suppress(ConnectionResetError):  # the engine did not read everything
                while data := data or await self._receive():
                    yield data
                    data = b""
            return
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)
        if isinstance(event, h11.ConnectionClosed):
            raise EngineError(0, "the connection was closed")

    async def write(self, data: bytes) -> None:
        """Send on an upgraded connection."""
        await self._loop.sock_sendall(self._socket, data)

    def write_end(self) -> None:
        """End what is sent on an upgraded connection; the other direction stays open."""
        self._socket.shutdown(socket.SHUT_WR)

    async def _next(self) -> object:
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._receive())
        except h11.RemoteProtocolError as error:
            raise EngineError(0, f"an invalid answer, or a part of one: {error}") from error
        return event

    async def _receive(self) -> bytes:
        data = await self._loop.sock_recv(self._socket, _CHUNK)
        # it returns at once while there is something: what prints all the time would stop all else
        await asyncio.sleep(0)
        return data

    async def _write(self, data: bytes | None) -> None:
        if data:
            await self._loop.sock_sendall(self._socket, data)

    async def _complaint(self) -> str:
        found = b""
        with contextlib.suppress(EngineError):
            async for piece in self.read():
                found += piece
                if len(found) > _LONGEST_ERROR:
                    break
        return complaint_in(found)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def complaint_in(body: bytes) -> str:
    """Return the message in the answer of an engine that refuses (``ErrorResponse``)."""
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        answer = msgspec.json.decode(body)
        if isinstance(answer, dict) and isinstance(message := answer.get("message"), str) and message:
            return message
    return body.decode(errors="replace").strip() or "(no message)"


@asynccontextmanager
async def opened(
    path: str,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Pieces | bytes = b"",
    begin_seconds: float = BEGIN_SECONDS,
) -> AsyncIterator[EngineStream]:
    """Send a request to the socket ``path``, and yield its stream once the engine has begun to answer.

    An engine answers a body while it reads it; ``begin_seconds`` is how long it may take once it has all of
    it. Raises EngineError, OSError, and what ``body`` raises.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    with connection:
        await asyncio.get_running_loop().sock_connect(connection, path)
        request = EngineStream(connection)
        async with _requested(request, method, target, headers or {}, body, begin_seconds) as stream:
            yield stream


@asynccontextmanager
async def _requested(
    stream: EngineStream,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Pieces | bytes,
    begin_seconds: float,
) -> AsyncIterator[EngineStream]:
    pieces: Pieces
    if isinstance(body, bytes):
        # Podman passes the end of a chunked body on to a command, as its input
        size, pieces = {"Content-Length": str(len(body))}, _once(body)
    else:
        size, pieces = {"Transfer-Encoding": "chunked"}, body
    sending = asyncio.ensure_future(stream.send(method, target, {**headers, **size}, pieces))
    try:
        await _begun(stream, sending, begin_seconds)
        yield stream
        await _sent(sending)
    except EngineError:
        await _sent(sending)
        raise
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _begun(stream: EngineStream, sending: asyncio.Future[None], seconds: float) -> None:
    """Wait for the answer to begin; its time limit starts when the body has been sent."""
    beginning = asyncio.ensure_future(stream.begin())
    try:
        await asyncio.wait((beginning, sending), return_when=asyncio.FIRST_COMPLETED)
        if not beginning.done() and sending.done():
            _raise_of_body(sending)
            await asyncio.wait((beginning,), timeout=seconds)
        if not beginning.done():
            raise EngineError(0, f"no answer within {seconds:g} s")
        beginning.result()
    finally:
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)


async def _sent(sending: asyncio.Future[None]) -> None:
    if sending.done():
        _raise_of_body(sending)


def _raise_of_body(sending: asyncio.Future[None]) -> None:
    """Raise what the body raised. An engine that has answered need not read the rest."""
    error = sending.exception()
    if error is not None and not isinstance(error, (OSError, h11.LocalProtocolError)):
        raise error


async def outputs(pieces: Pieces, on_error: Callable[[bytes], None] | None = None) -> AsyncGenerator[bytes]:
    """Yield what a process printed, of either stream, from pieces with heads (``_HEAD``).

    ``on_error`` gets what the engine says itself, which is yielded without it.
    """
    kind, left, head = 0, 0, b""
    async for piece in pieces:
        rest = memoryview(piece)
        while rest:
            if left == 0:
                taken = _HEAD.size - len(head)
                head, rest = head + bytes(rest[:taken]), rest[taken:]
                if len(head) < _HEAD.size:
                    break
                kind, left = _HEAD.unpack(head)
                if kind > _ENGINE:
                    raise DriverError("the container engine sent invalid output")
                head = b""
                continue
            content, rest = bytes(rest[:left]), rest[left:]
            left -= len(content)
            if kind == _ENGINE and on_error is not None:
                on_error(content)
            else:
                yield content
