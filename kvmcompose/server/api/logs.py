"""Streams the log of an action over a WebSocket: each message is one line as JSON."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from http import HTTPStatus

import msgspec
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.problems import ApiError, problem_of
from kvmcompose.server.api.service import Service

#: The largest integer in SQLite, and so the largest number of a line.
MAX_SEQUENCE = 2**63 - 1
_NORMAL_CLOSURE = 1000
_POLICY_VIOLATION = 1008

router = APIRouter()


@router.websocket("/api/deployments/{name}/actions/{uuid}/logs")
async def follow_log(websocket: WebSocket, name: str, uuid: str) -> None:
    """Send the log after line ``after``: stored lines, then new ones, until the action ends."""
    service: Service = websocket.app.state.service
    try:
        lines = service.follow(websocket.scope["kvmcompose.asker"], name, uuid, _after(websocket))
    except KvmComposeError as error:
        await websocket.send_denial_response(problem_of(error))
        return
    await websocket.accept()

    async def send() -> None:
        async for line in lines:
            await websocket.send_text(msgspec.json.encode(line).decode())

    sending = asyncio.create_task(send())
    listening = asyncio.create_task(websocket.receive())
    try:
        await asyncio.wait((sending, listening), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():  # the client has disconnected, or sent a message
            sending.cancel()
        with suppress(asyncio.CancelledError, WebSocketDisconnect, OSError):
            await sending
            await websocket.close(_NORMAL_CLOSURE)
            return
        if websocket.client_state is not WebSocketState.DISCONNECTED:
            with suppress(WebSocketDisconnect, OSError, RuntimeError):
                await websocket.close(_POLICY_VIOLATION, "this stream accepts no messages")
    finally:
        for task in (sending, listening):
            task.cancel()
        await asyncio.gather(sending, listening, return_exceptions=True)


def _after(websocket: WebSocket) -> int:
    """Return the only parameter, ``after``. Raises ApiError."""
    given = websocket.query_params.multi_items()
    if any(name != "after" for name, _ in given) or len(given) > 1:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "the only parameter is 'after'")
    text = given[0][1] if given else "0"
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > MAX_SEQUENCE:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"after: {text[:40]!r} is not a line number")
    return int(text)
