"""Connects a client to the serial console of a guest, over a WebSocket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from fastapi import APIRouter, WebSocket

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.guest_connection import STALL_SECONDS
from kvmcompose.server.api.problems import ApiError, problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import NORMAL_CLOSURE, parameters, until_one_ends
from kvmcompose.server.api.terminal_stream import UNSUPPORTED, EndedError, Window, close, send, window_of
from kvmcompose.server.guest_console import GuestConsole

#: How long one look for what was printed may wait for it, and how often there is one at most, in seconds.
_WAIT_SECONDS, _LOOK_SECONDS = 20, 0.5

router = APIRouter()


@router.websocket("/api/deployments/{name}/guests/{guest}/console")
async def connect_console(websocket: WebSocket, name: str, guest: str) -> None:
    """Copy what the guest prints to the client, and back what is typed; see ``get_guest_console``."""
    service: Service = websocket.app.state.service
    asker = websocket.scope["kvmcompose.asker"]
    try:
        given = parameters(websocket, "force", "watch", "window")
        window = Window(window_of(given.get("window")))
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
            await send(websocket, part.data, window)
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
        await close(websocket, ended, stopping=service.stopping.is_set())


async def _show(
    websocket: WebSocket, console: GuestConsole, window: Window, show_new: Callable[[], Awaitable[None]]
) -> None:
    await websocket.send_text(msgspec.json.encode(console.opened).decode())
    await send(websocket, console.history, window)
    if console.endpoint is None:
        await show_new()
        return
    await send(websocket, console.since, window)
    loop = asyncio.get_running_loop()
    # what is not read stays with the driver, which bounds it
    while data := await loop.sock_recv(console.endpoint, await window.room()):
        window.sent(len(data))
        await websocket.send_bytes(data)
        await asyncio.sleep(0)  # both return at once while there is much to read: others have their turn
    raise EndedError(NORMAL_CLOSURE, "the guest went off, or another user has taken its console")


async def _receive(websocket: WebSocket, endpoint: socket.socket | None, window: Window) -> None:
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
            raise EndedError(UNSUPPORTED, "this console takes no input")
        elif data:
            async with asyncio.timeout(STALL_SECONDS):
                await loop.sock_sendall(endpoint, data)


def _flag(given: dict[str, str], name: str) -> bool:
    value = given.get(name, "false")
    if value not in ("true", "false"):
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: {value[:40]!r} is neither true nor false")
    return value == "true"
