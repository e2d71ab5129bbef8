"""Receives the standard input of a command in a guest over a WebSocket."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from kvmcompose.core.commands import INPUT_WINDOW
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.action_input import ActionInput, WindowExceededError
from kvmcompose.server.api.problems import problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import NORMAL_CLOSURE, until_one_ends

_POLICY_VIOLATION = 1008
#: After so many bytes the client learns that they were taken.
_STEP = INPUT_WINDOW // 4

router = APIRouter()


@router.websocket("/api/deployments/{name}/actions/{uuid}/input")
async def receive_input(websocket: WebSocket, name: str, uuid: str) -> None:
    """Pass on what the client sends; see ``get_input`` in ``routes`` for the protocol."""
    service: Service = websocket.app.state.service
    try:
        given = service.input(websocket.scope["kvmcompose.asker"], name, uuid)
        given.attach()
    except KvmComposeError as error:
        await websocket.send_denial_response(problem_of(error))
        return
    await websocket.accept()
    try:
        ended = await until_one_ends(_receive(websocket, given), _report(websocket, given))
    finally:
        given.lose("the connection to the client was lost")
    violation = next((each for each in ended if isinstance(each, WindowExceededError)), None)
    with suppress(WebSocketDisconnect, OSError, RuntimeError):  # the client may have disconnected
        if violation is not None:
            await websocket.close(_POLICY_VIOLATION, violation.message)
        else:
            await websocket.close(NORMAL_CLOSURE)


async def _receive(websocket: WebSocket, given: ActionInput) -> None:
    """Feed the input until the client closes. Raises WindowExceededError."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            if message.get("code") == NORMAL_CLOSURE:
                given.complete()
            return
        data = message.get("bytes")
        if data is None:
            given.lose("the client sent text, not bytes")
            return
        given.feed(data)


async def _report(websocket: WebSocket, given: ActionInput) -> None:
    """Report how much the command has taken, until it takes nothing more."""
    reported = 0
    while not given.over:
        await given.progress.wait()
        given.progress.clear()
        if given.taken - reported >= _STEP:
            reported = given.taken
            with suppress(WebSocketDisconnect, OSError, RuntimeError):
                await websocket.send_text(str(reported))
