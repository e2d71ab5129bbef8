"""Sends text messages over a WebSocket to a client that only listens; and ends what serves one connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState
from websockets.frames import Frame, Opcode

from kvmcompose.server.api.problems import ApiError

#: The largest integer in SQLite, and so the largest number of a line or an event.
MAX_SEQUENCE = 2**63 - 1
#: What the server that runs the API takes in a message ``websocket.send`` beside ``text`` and ``bytes``.
FRAMES = "frames"
NORMAL_CLOSURE, GOING_AWAY = 1000, 1001
_POLICY_VIOLATION = 1008


class GoingAwayError(Exception):
    """The server stops before the stream has ended."""


def text_frame(document: bytes) -> bytes:
    """Return a text message as a WebSocket frame (RFC 6455, 5.2), which is the same for all clients."""
    return Frame(Opcode.TEXT, document).serialize(mask=False)


async def send_all(websocket: WebSocket, frames: AsyncGenerator[bytes]) -> None:
    """Accept the connection, send the frames, and close it: with 1000 when there are no more.

    Each item, of one frame or more, is sent as fast as the client reads. ``frames`` is closed when the client
    has left.
    """
    await websocket.accept()

    async def send() -> None:
        async with aclosing(frames):
            async for some in frames:
                await websocket.send({"type": "websocket.send", FRAMES: some})

    sending = asyncio.create_task(send())
    listening = asyncio.create_task(websocket.receive())
    try:
        await asyncio.wait((sending, listening), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():  # the client has disconnected, or sent a message
            sending.cancel()
        code = NORMAL_CLOSURE
        with suppress(asyncio.CancelledError, WebSocketDisconnect, OSError):
            try:
                await sending
            except GoingAwayError:
                code = GOING_AWAY
            await websocket.close(code)
            return
        if websocket.client_state is not WebSocketState.DISCONNECTED:
            with suppress(WebSocketDisconnect, OSError, RuntimeError):
                await websocket.close(_POLICY_VIOLATION, "this stream accepts no messages")
    finally:
        for task in (sending, listening):
            task.cancel()
        await asyncio.gather(sending, listening, return_exceptions=True)


async def until_one_ends(*work: Coroutine[Any, Any, object]) -> list[object]:
    """Run the parts of a connection until one has ended, and cancel the others; return how each has ended."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended: list[object] = await asyncio.gather(*tasks, return_exceptions=True)
    return ended


def parameters(websocket: WebSocket, *known: str) -> dict[str, str]:
    """Return the parameters of the request, each given once at most. Raises ApiError."""
    given = websocket.query_params.multi_items()
    for name, _ in given:
        if name not in known:
            hint = f"known parameters: {', '.join(known)}"
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"unknown parameter {name!r}", hint=hint)
    found = dict(given)
    if len(found) < len(given):
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"a parameter is given twice: {', '.join(found)}")
    return found


def number_after(text: str) -> int:
    """Return the number of a line or an event. Raises ApiError."""
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > MAX_SEQUENCE:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"after: {text[:40]!r} is not a number of the stream")
    return int(text)
