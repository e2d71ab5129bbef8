"""Streams the events of a deployment over a WebSocket: each message is one event as JSON."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, WebSocket

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.api.event_reader import Wanted
from kvmcompose.server.api.problems import ApiError, problem_of
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import number_after, parameters, send_all

router = APIRouter()

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@router.websocket("/api/deployments/{name}/events")
async def follow_events(websocket: WebSocket, name: str) -> None:
    """Send the events of a deployment, or of one action; see ``Wanted``."""
    service: Service = websocket.app.state.service
    try:
        reader = service.events(websocket.scope["kvmcompose.asker"], name, _wanted(websocket))
    except KvmComposeError as error:
        await websocket.send_denial_response(problem_of(error))
        return
    with service.following():
        await send_all(websocket, reader.messages())


def _wanted(websocket: WebSocket) -> Wanted:
    """Return what the parameters say. Raises ApiError."""
    given = parameters(websocket, "after", "action", "status")
    status = given.get("status", "false")
    if status not in _BOOLEANS:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"status: {status[:40]!r} is neither true nor false")
    if _BOOLEANS[status] and "action" in given:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "'action' and 'status' exclude each other")
    return Wanted(
        after=number_after(given["after"]) if "after" in given else None,
        action=given.get("action"),
        status=_BOOLEANS[status],
    )
