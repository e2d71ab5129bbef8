"""Streams the list of deployments over a WebSocket: each message is the whole list as JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from fastapi import APIRouter, WebSocket

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.problems import problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import GoingAwayError, parameters, send_all, text_frame
from kvmcompose.server.people import Asker

router = APIRouter()


@router.websocket("/api/deployments")
async def follow_deployments(websocket: WebSocket) -> None:
    """All deployments, by name: each text message is the whole list as JSON, at once and after each change.

    Meanwhile the server looks every few seconds which of those that are up are degraded. Only name, state and
    owner of those of other users are in it. Closed with 1001 when the server stops.
    """
    service: Service = websocket.app.state.service
    try:
        parameters(websocket)
    except KvmComposeError as error:
        await websocket.send_denial_response(problem_of(error))
        return
    await send_all(websocket, _lists(service, websocket.scope["kvmcompose.asker"]))


async def _lists(service: Service, asker: Asker) -> AsyncGenerator[bytes]:
    """Yield until the server stops. Raises GoingAwayError then."""
    sent = b""
    with service.all_deployments.reading(), service.following_conditions(asker):
        while not service.stopping.is_set():
            news = service.all_deployments.news  # before the list is read: nothing is missed in between
            found = msgspec.json.encode(service.deployments(asker))
            if found != sent:
                sent = found
                yield text_frame(found)
            await news.wait()
    raise GoingAwayError
