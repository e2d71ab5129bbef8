"""Connects a client to the SSH server of a guest, or to its screen, over a WebSocket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from contextlib import suppress

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server import limits
from kvmcompose.server.api.problems import problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import NORMAL_CLOSURE, until_one_ends

_CHUNK = 1 << 16
_POLICY_VIOLATION = 1008
#: How long a guest may take none of what the client has sent. Meanwhile nothing is read from the client,
#: not even that it has left; one whose signs of life are not read is disconnected after the same time.
STALL_SECONDS = 2 * limits.PING_SECONDS

router = APIRouter()


@router.websocket("/api/deployments/{name}/guests/{guest}/ssh")
async def connect_guest(websocket: WebSocket, name: str, guest: str) -> None:
    """Connect to the SSH server of a guest; see ``get_ssh`` in ``routes``."""
    service: Service = websocket.app.state.service
    await _connect(websocket, service, service.reach(websocket.scope["kvmcompose.asker"], name, guest))


@router.websocket("/api/deployments/{name}/guests/{guest}/screen")
async def show_screen(websocket: WebSocket, name: str, guest: str) -> None:
    """Connect to the screen of a guest; see ``get_screen`` in ``routes``."""
    service: Service = websocket.app.state.service
    await _connect(websocket, service, service.open_screen(websocket.scope["kvmcompose.asker"], name, guest))


async def _connect(websocket: WebSocket, service: Service, opening: Awaitable[socket.socket]) -> None:
    """Copy bytes until either side ends.

    Nothing is read from one side before the other has taken what came before.
    """
    try:
        endpoint = await opening
    except KvmComposeError as error:
        await websocket.send_denial_response(problem_of(error))
        return
    with endpoint:
        await websocket.accept()
        ended = await until_one_ends(
            _to_guest(websocket, endpoint), _from_guest(websocket, endpoint), service.stopping.wait()
        )
        with suppress(WebSocketDisconnect, OSError, RuntimeError):  # the client may have disconnected
            if any(isinstance(each, TypeError) for each in ended):
                await websocket.close(_POLICY_VIOLATION, "the client sent text, not bytes")
            else:
                await websocket.close(NORMAL_CLOSURE)


async def _to_guest(websocket: WebSocket, endpoint: socket.socket) -> None:
    """Raises TypeError for text, TimeoutError for a guest that takes nothing."""
    loop = asyncio.get_running_loop()
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        if data is None:
            raise TypeError
        async with asyncio.timeout(STALL_SECONDS):
            await loop.sock_sendall(endpoint, data)


async def _from_guest(websocket: WebSocket, endpoint: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(endpoint, _CHUNK):
        await websocket.send_bytes(data)
        # both return at once while there is something to read and room to send it: others have their turn
        await asyncio.sleep(0)
