"""The routes for the project of a deployment: its YAML, plans, and building it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from kvmcompose.core.commands import GUEST_PATTERN
from kvmcompose.core.project_file import NewText, ProjectOptions, ProjectUp, SavedText
from kvmcompose.effects.resources import schemas
from kvmcompose.pipeline.schemas import complete_schema
from kvmcompose.server.api.byte_reply import NDJSON, ByteReply
from kvmcompose.server.api.openapi import described
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.projects import Projects
from kvmcompose.server.api.routes import Name, ServiceParameter, Who, known_parameters
from kvmcompose.server.api.wire import Reply, body

T = TypeVar("T")

_CONFLICT = HTTPStatus.CONFLICT
_BAD_GATEWAY = HTTPStatus.BAD_GATEWAY
_STOPPING = HTTPStatus.SERVICE_UNAVAILABLE


async def _projects(request: Request) -> Projects:
    return cast(Projects, request.app.state.projects)


ProjectsParameter = Annotated[Projects, Depends(_projects)]

router = APIRouter(prefix="/api", dependencies=[Depends(known_parameters)])


async def while_wanted(request: Request, stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of some work, which is cancelled when the client leaves or the server stops."""
    working = asyncio.ensure_future(work)
    ends = [asyncio.create_task(_left(request)), asyncio.create_task(stopping.wait())]
    try:
        await asyncio.wait((working, *ends), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(
                _STOPPING, "the server is stopping" if stopping.is_set() else "the client has left"
            )
        return await working
    finally:
        for task in (working, *ends):
            task.cancel()
        await asyncio.gather(working, *ends, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.get("/schema", **described("schema"))
async def get_schema() -> Response:
    """The JSON Schema of kvm-compose.yaml, for editors."""
    return Reply(complete_schema(schemas()))


@router.get(
    "/deployments/{name}/project/file", **described("project_file", _CONFLICT, _BAD_GATEWAY, _STOPPING)
)
async def get_file(
    request: Request, service: ServiceParameter, projects: ProjectsParameter, who: Who, name: Name
) -> Response:
    """The YAML of the project, and its problems as `validate` reports them."""
    return Reply(await while_wanted(request, service.stopping, projects.file(who, name)))


@router.put(
    "/deployments/{name}/project/file",
    **described("project_file", _CONFLICT, _BAD_GATEWAY, _STOPPING, body="saved_text"),
)
async def put_file(
    request: Request,
    service: ServiceParameter,
    projects: ProjectsParameter,
    who: Who,
    name: Name,
    saved: Annotated[SavedText, Depends(body(SavedText))],
) -> Response:
    """Save a text that is valid (else 422), if the file is still the one that was read (else 409)."""
    return Reply(await while_wanted(request, service.stopping, projects.save(who, name, saved)))


@router.post(
    "/deployments/{name}/project/check",
    **described("checked_file", _CONFLICT, _BAD_GATEWAY, _STOPPING, body="new_text"),
)
async def post_check(
    request: Request,
    service: ServiceParameter,
    projects: ProjectsParameter,
    who: Who,
    name: Name,
    new: Annotated[NewText, Depends(body(NewText))],
) -> Response:
    """The problems of a text that is not saved. Changes nothing."""
    return Reply(await while_wanted(request, service.stopping, projects.check(who, name, new)))


@router.post(
    "/deployments/{name}/project/plan",
    **described("project_plan", _CONFLICT, _BAD_GATEWAY, _STOPPING, body="project_options"),
)
async def post_project_plan(
    request: Request,
    service: ServiceParameter,
    projects: ProjectsParameter,
    who: Who,
    name: Name,
    wanted: Annotated[ProjectOptions, Depends(body(ProjectOptions))],
) -> Response:
    """What `up` would do to files and on hosts, and why, as `plan --json` prints it. Changes nothing."""
    return Reply(await while_wanted(request, service.stopping, projects.plan(who, name, wanted)))


@router.get("/deployments/{name}/project/why", **described("explained", _CONFLICT, _BAD_GATEWAY, _STOPPING))
async def get_why(
    request: Request,
    service: ServiceParameter,
    projects: ProjectsParameter,
    who: Who,
    name: Name,
    guest: Annotated[str, Query(pattern=GUEST_PATTERN.removesuffix(r"(?!\n)"))],
) -> Response:
    """What a guest is made of, and which of that has changed since it was built."""
    return Reply(await while_wanted(request, service.stopping, projects.why(who, name, guest)))


@router.post(
    "/deployments/{name}/project/up",
    **described("command_event", _CONFLICT, _BAD_GATEWAY, _STOPPING, body="project_up", lines=True),
)
async def post_up(
    request: Request,
    service: ServiceParameter,
    projects: ProjectsParameter,
    who: Who,
    name: Name,
    wanted: Annotated[ProjectUp, Depends(body(ProjectUp))],
) -> Response:
    """Build the project, then start the action `up`: a stream, each line an event of the command as JSON.

    The event `action` has the UUID of the action, which goes on by itself; the last event is `ended`. The
    build ends when the client disconnects. What the user has to consent to is in a message before the end.
    """
    events = await while_wanted(request, service.stopping, projects.up(who, name, wanted))
    return ByteReply(events, NDJSON, service.stopping)
