"""Streams the log of an action over a WebSocket: each message is one line as JSON.

Kept for clients of 0.1; the stream of events (``events``) has the lines, too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from fastapi import APIRouter, WebSocket

from kvmcompose.core.deployment import LogLine
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.problems import problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import number_after, parameters, send_all, text_frame

router = APIRouter()


@router.websocket("/api/deployments/{name}/actions/{uuid}/logs")
async def follow_log(websocket: WebSocket, name: str, uuid: str) -> None:
    """Send the log after line ``after``: stored lines, then new ones, until the action ends."""
    service: Service = websocket.app.state.service
    try:
        after = number_after(parameters(websocket, "after").get("after", "0"))
        lines = service.follow(websocket.scope["kvmcompose.asker"], name, uuid, after)
    except KvmComposeError as error:
        await websocket.send_denial_response(problem_of(error))
        return
    await send_all(websocket, _encoded(lines))


async def _encoded(lines: AsyncIterator[LogLine]) -> AsyncGenerator[bytes]:
    async for line in lines:
        yield text_frame(msgspec.json.encode(line))
