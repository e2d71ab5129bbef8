"""What the WebSockets of terminals have in common: a window, and how they end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.streaming import GOING_AWAY, NORMAL_CLOSURE

#: The least and the most that may be on its way to a client which says what it has taken, in bytes.
LEAST_WINDOW, MOST_WINDOW = 4096, 1 << 20
_CHUNK = 1 << 15
#: RFC 6455, 7.4.1. A violation of the protocol is not 1008, which says that the sender is not known any more.
UNSUPPORTED, _INTERNAL = 1003, 1011
#: The longest reason of a closure, in bytes (RFC 6455, 5.5).
_LONGEST_REASON = 123


class EndedError(Exception):
    """A terminal has ended, with a code and a reason for its client."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Window:
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
        """Note what the client has taken in all. Raises EndedError for what that cannot be."""
        count = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else -1
        if not self._taken <= count <= self._sent:
            raise EndedError(UNSUPPORTED, "a text message is the number of bytes that the client has taken")
        self._taken = count
        self._moved.set()


async def send(websocket: WebSocket, data: bytes, window: Window) -> None:
    """Send bytes as fast as the client takes them."""
    while data:
        part = data[: await window.room()]
        window.sent(len(part))
        await websocket.send_bytes(part)
        data = data[len(part) :]


async def close(websocket: WebSocket, ended: Sequence[object], *, stopping: bool) -> None:
    """Close a connection whose tasks have ended so; ``stopping``: as the server stops."""
    code, reason = _closure(ended, stopping=stopping)
    with suppress(WebSocketDisconnect, OSError, RuntimeError):  # the client may have disconnected
        await websocket.close(code, reason.encode()[:_LONGEST_REASON].decode(errors="ignore"))


def _closure(ended: Sequence[object], *, stopping: bool) -> tuple[int, str]:
    """Return how to close a connection whose tasks have ended so."""
    for each in ended:
        if isinstance(each, EndedError):
            return each.code, each.reason
        if isinstance(each, KvmComposeError):
            return _INTERNAL, each.message
        if isinstance(each, TimeoutError):
            return _INTERNAL, "the guest takes no input"
    return (GOING_AWAY, "the server is stopping") if stopping else (NORMAL_CLOSURE, "")


def window_of(text: str | None) -> int | None:
    """Return the size of a window, which a request may ask for. Raises ApiError."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text) or not LEAST_WINDOW <= int(text) <= MOST_WINDOW:
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"window: {text[:40]!r} is not a number of bytes from {LEAST_WINDOW} to {MOST_WINDOW}",
        )
    return int(text)
