"""Connects a client to a shell in a guest, over a WebSocket."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from http import HTTPStatus

import msgspec
from fastapi import APIRouter, WebSocket

from kvmcompose.core.access import MOST_CHARACTERS, ShellEnded, TerminalSize
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.terminal import Terminal
from kvmcompose.server.api.guest_connection import STALL_SECONDS
from kvmcompose.server.api.problems import ApiError, problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import NORMAL_CLOSURE, parameters, until_one_ends
from kvmcompose.server.api.terminal_stream import UNSUPPORTED, EndedError, Window, close, send, window_of

#: The size of a terminal whose client does not say it.
COLUMNS, ROWS = 80, 24

router = APIRouter()


@router.websocket("/api/deployments/{name}/guests/{guest}/shell")
async def open_shell(websocket: WebSocket, name: str, guest: str) -> None:
    """Start a shell, and copy between it and the client; see ``get_shell`` in ``routes``."""
    service: Service = websocket.app.state.service
    async with AsyncExitStack() as stack:
        try:
            given = parameters(websocket, "columns", "rows", "window")
            window = Window(window_of(given.get("window")))
            shell = service.shell(websocket.scope["kvmcompose.asker"], name, guest, _size(given))
            terminal = await stack.enter_async_context(shell)
        except KvmComposeError as error:
            await websocket.send_denial_response(problem_of(error))
            return
        await websocket.accept()
        ended = await until_one_ends(
            _receive(websocket, terminal, window), _show(websocket, terminal, window), service.stopping.wait()
        )
        await close(websocket, ended, stopping=service.stopping.is_set())


async def _show(websocket: WebSocket, terminal: Terminal, window: Window) -> None:
    async for data in terminal.read():
        await send(websocket, data, window)
        await asyncio.sleep(0)  # both return at once while there is much to read: others have their turn
    try:
        status: int | None = await terminal.status()
    except DriverError:
        status = None
    await websocket.send_text(msgspec.json.encode(ShellEnded(exit_status=status)).decode())
    raise EndedError(NORMAL_CLOSURE, "the shell has ended")


async def _receive(websocket: WebSocket, terminal: Terminal, window: Window) -> None:
    """Pass on what the client types, until it leaves."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data, text = message.get("bytes"), message.get("text")
        if text is not None and text.startswith("{"):
            try:
                terminal.resize(msgspec.json.decode(text, type=TerminalSize))
            except msgspec.MsgspecError as error:
                raise EndedError(UNSUPPORTED, f"not the size of a terminal: {error}") from None
        elif text is not None:
            window.taken(text)
        elif data:
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await terminal.write(data)
            except OSError:  # it has ended, as its other direction says
                await asyncio.Event().wait()


def _size(given: dict[str, str]) -> TerminalSize:
    return TerminalSize(columns=_characters(given, "columns", COLUMNS), rows=_characters(given, "rows", ROWS))


def _characters(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:5]) <= MOST_CHARACTERS:
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"{name}: {text[:40]!r} is not a number from 1 to {MOST_CHARACTERS}",
        )
    return int(text)
