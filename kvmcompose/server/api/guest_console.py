"""Connects a client to the serial console of a guest, over a WebSocket."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus

import msgspec
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.guest_connection import STALL_SECONDS
from kvmcompose.server.api.problems import ApiError, problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import GOING_AWAY, NORMAL_CLOSURE, parameters, until_one_ends
from kvmcompose.server.guest_console import GuestConsole

#: The least and the most that may be on its way to a client which says what it has taken, in bytes.
LEAST_WINDOW, MOST_WINDOW = 4096, 1 << 20
_CHUNK = 1 << 15
#: How long one look for what was printed may wait for it, and how often there is one at most, in seconds.
_WAIT_SECONDS, _LOOK_SECONDS = 20, 0.5
#: RFC 6455, 7.4.1. A violation of the protocol is not 1008, which says that the sender is not known any more.
_UNSUPPORTED, _INTERNAL = 1003, 1011
#: The longest reason of a closure, in bytes (RFC 6455, 5.5).
_LONGEST_REASON = 123

router = APIRouter()


class _EndedError(Exception):
    """A console has ended, with a code and a reason for its client."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Window:
    """How much may be sent to a client that says what it has taken; anything, to one that does not."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._sent = self._taken = 0
        self._moved = asyncio.Event()

    async def room(self) -> int:
        """Return how many bytes may be sent, once it is any."""
        while self._size is not None and self._sent - self._taken >= self._size:
            self._moved.clear()
            await self._moved.wait()
        return _CHUNK if self._size is None else min(_CHUNK, self._size - (self._sent - self._taken))

    def sent(self, count: int) -> None:
        """Note what was sent."""
        self._sent += count

    def taken(self, text: str) -> None:
        """Note what the client has taken in all. Raises _EndedError for what that cannot be."""
        count = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else -1
        if not self._taken <= count <= self._sent:
            raise _EndedError(_UNSUPPORTED, "a text message is the number of bytes that the client has taken")
        self._taken = count
        self._moved.set()


@router.websocket("/api/deployments/{name}/guests/{guest}/console")
async def connect_console(websocket: WebSocket, name: str, guest: str) -> None:
    """Copy what the guest prints to the client, and back what is typed; see ``get_guest_console``."""
    service: Service = websocket.app.state.service
    asker = websocket.scope["kvmcompose.asker"]
    try:
        given = parameters(websocket, "force", "watch", "window")
        window = _Window(_window(given.get("window")))
        force, watch = _flag(given, "force"), _flag(given, "watch")
        console = await service.open_console(asker, name, guest, force=force, watch=watch)
    except KvmComposeError as error:
        await websocket.send_denial_response(problem_of(error))
        return

    async def show_new() -> None:
        """Send what is printed, from its record."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            part = await service.console(asker, name, guest, console.offset, _WAIT_SECONDS)
            await _send(websocket, part.data, window)
            console.offset = part.start + len(part.data)
            if not part.data:  # what is not there yet is not waited for
                await asyncio.sleep(max(0.0, asked + _LOOK_SECONDS - loop.time()))

    with console:
        await websocket.accept()
        ended = await until_one_ends(
            _receive(websocket, console.endpoint, window),
            _show(websocket, console, window, show_new),
            service.stopping.wait(),
        )
        code, reason = _closure(ended, stopping=service.stopping.is_set())
        with suppress(WebSocketDisconnect, OSError, RuntimeError):  # the client may have disconnected
            await websocket.close(code, reason.encode()[:_LONGEST_REASON].decode(errors="ignore"))


def _closure(ended: Sequence[object], *, stopping: bool) -> tuple[int, str]:
    """Return how to close a connection whose tasks have ended so."""
    for each in ended:
        if isinstance(each, _EndedError):
            return each.code, each.reason
        if isinstance(each, KvmComposeError):
            return _INTERNAL, each.message
        if isinstance(each, TimeoutError):
            return _INTERNAL, "the guest takes no input"
    return (GOING_AWAY, "the server is stopping") if stopping else (NORMAL_CLOSURE, "")


async def _show(
    websocket: WebSocket, console: GuestConsole, window: _Window, show_new: Callable[[], Awaitable[None]]
) -> None:
    await websocket.send_text(msgspec.json.encode(console.opened).decode())
    await _send(websocket, console.history, window)
    if console.endpoint is None:
        await show_new()
        return
    await _send(websocket, console.since, window)
    loop = asyncio.get_running_loop()
    # what is not read stays with the driver, which bounds it
    while data := await loop.sock_recv(console.endpoint, await window.room()):
        window.sent(len(data))
        await websocket.send_bytes(data)
        await asyncio.sleep(0)  # both return at once while there is much to read: others have their turn
    raise _EndedError(NORMAL_CLOSURE, "the guest went off, or another user has taken its console")


async def _send(websocket: WebSocket, data: bytes, window: _Window) -> None:
    while data:
        part = data[: await window.room()]
        window.sent(len(part))
        await websocket.send_bytes(part)
        data = data[len(part) :]


async def _receive(websocket: WebSocket, endpoint: socket.socket | None, window: _Window) -> None:
    """Pass on what the client types, until it leaves."""
    loop = asyncio.get_running_loop()
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data, text = message.get("bytes"), message.get("text")
        if text is not None:
            window.taken(text)
        elif endpoint is None:
            raise _EndedError(_UNSUPPORTED, "this console takes no input")
        elif data:
            async with asyncio.timeout(STALL_SECONDS):
                await loop.sock_sendall(endpoint, data)


def _flag(given: dict[str, str], name: str) -> bool:
    value = given.get(name, "false")
    if value not in ("true", "false"):
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: {value[:40]!r} is neither true nor false")
    return value == "true"


def _window(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text) or not LEAST_WINDOW <= int(text) <= MOST_WINDOW:
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"window: {text[:40]!r} is not a number of bytes from {LEAST_WINDOW} to {MOST_WINDOW}",
        )
    return int(text)
