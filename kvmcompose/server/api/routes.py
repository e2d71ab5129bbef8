"""The API's requests, each one call of the service."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from kvmcompose.core.deployment import (
    FILTER_PATTERN,
    GUEST_PATTERN,
    MAX_PACKETS,
    MAX_SNAPLEN,
    PROJECT_PATTERN,
    TARGET_PATTERN,
    ActionAccepted,
    Capture,
    Command,
    NewDeployment,
)
from kvmcompose.server.api.logs import MAX_SEQUENCE
from kvmcompose.server.api.openapi import Alive, described
from kvmcompose.server.api.packets import PCAP, PacketReply
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.wire import Reply, body, json_body

_CONFLICT = HTTPStatus.CONFLICT
_BAD_GATEWAY = HTTPStatus.BAD_GATEWAY
_STOPPING = HTTPStatus.SERVICE_UNAVAILABLE
_WHO_LENGTH = 200
_LINES = 1000


async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


async def _known_parameters(request: Request) -> None:
    """A misspelt parameter is an error, not one left out."""
    known = {each.alias for each in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"there is no parameter {name!r} here",
                hint=f"there are: {', '.join(sorted(known))}" if known else None,
            )


async def _who(request: Request) -> str | None:
    """Whoever asks, as they call themselves; what could act on a terminal is taken out."""
    said = request.headers.get("x-kvm-compose-who", "").encode("latin-1").decode(errors="replace")
    return "".join(each for each in said if each.isprintable()).strip()[:_WHO_LENGTH] or None


ServiceParameter = Annotated[Service, Depends(_service)]
Who = Annotated[str | None, Depends(_who)]
Name = Annotated[str, Path(json_schema_extra={"pattern": PROJECT_PATTERN})]
Uuid = Annotated[str, Path(json_schema_extra={"format": "uuid"})]
After = Annotated[int, Query(ge=0, le=MAX_SEQUENCE, description="Only lines after this one.")]

router = APIRouter(prefix="/api", dependencies=[Depends(_known_parameters)])


@router.get("/health", **described("health"))
async def get_health(request: Request, service: ServiceParameter) -> Response:
    """That the server is there; who it is, for those who know its token."""
    return Reply(service.health if request.scope["kvmcompose.trusted"] else Alive())


# -- configuration


@router.get("/config/cluster", **described("cluster-config"))
async def get_cluster(service: ServiceParameter) -> Response:
    """The cluster's kvm-compose-config.json; this machine alone when none was given."""
    return Reply(service.cluster.get())


@router.put("/config/cluster", **described("cluster-config", body="cluster-config"))
async def put_cluster(request: Request, service: ServiceParameter) -> Response:
    """Keep this kvm-compose-config.json."""
    return Reply(service.cluster.put(await json_body(request)))


@router.get("/config/host", **described("host-config"))
async def get_host(service: ServiceParameter) -> Response:
    """The main host's entry in it."""
    return Reply(service.cluster.get_host())


@router.put("/config/host", **described("host-config", body="host-config"))
async def put_host(request: Request, service: ServiceParameter) -> Response:
    """Put this in the place of the main host's entry."""
    return Reply(service.cluster.put_host(await json_body(request)))


# -- deployments


@router.get("/deployments", **described("deployments"))
async def get_deployments(service: ServiceParameter) -> Response:
    """All deployments, by name."""
    return Reply(service.deployments())


@router.post(
    "/deployments",
    **described("deployment", _CONFLICT, _STOPPING, status=HTTPStatus.CREATED, body="new"),
)
async def post_deployment(
    service: ServiceParameter, new: Annotated[NewDeployment, Depends(body(NewDeployment))]
) -> Response:
    """Make a project known under a name that is free."""
    made = service.create(new)
    return Reply(made, HTTPStatus.CREATED, {"Location": f"/api/deployments/{made.name}"})


@router.get("/deployments/{name}", **described("deployment"))
async def get_deployment(service: ServiceParameter, name: Name) -> Response:
    """One deployment."""
    return Reply(service.deployment(name))


@router.put(
    "/deployments/{name}",
    **described("deployment", _CONFLICT, _STOPPING, also=HTTPStatus.CREATED, body="new"),
)
async def put_deployment(
    service: ServiceParameter, name: Name, new: Annotated[NewDeployment, Depends(body(NewDeployment))]
) -> Response:
    """Make a project known, or, while it is down, give it another folder. Again is no error."""
    if new.name != name:
        raise ApiError(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"the body speaks of {new.name!r}, the address of {name!r}"
        )
    deployment, is_new = service.put(new)
    return Reply(deployment, HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@router.delete("/deployments/{name}", **described(None, _CONFLICT, _STOPPING, status=HTTPStatus.NO_CONTENT))
async def delete_deployment(service: ServiceParameter, name: Name) -> Response:
    """Forget a deployment of which nothing is up, and its history. Its folder stays as it is."""
    service.remove(name)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get("/deployments/{name}/state", **described("state", _CONFLICT))
async def get_state(service: ServiceParameter, name: Name) -> Response:
    """The state.json of what is up, or of the project folder when nothing is."""
    state = service.orchestrator.state(service.deployment(name))
    return Response(state, media_type=Reply.media_type)


@router.get("/deployments/{name}/status", **described("status", _CONFLICT, _BAD_GATEWAY))
async def get_status(service: ServiceParameter, name: Name) -> Response:
    """The deployment and its guests as they are now."""
    return Reply(await service.orchestrator.status(service.deployment(name)))


@router.get("/deployments/{name}/access", **described("access", _CONFLICT, _BAD_GATEWAY))
async def get_access(service: ServiceParameter, name: Name) -> Response:
    """How its guests are reached from the server's machine."""
    return Reply(await service.orchestrator.access(service.deployment(name)))


@router.get("/deployments/{name}/snapshots", **described("snapshots", _CONFLICT, _BAD_GATEWAY))
async def get_snapshots(
    service: ServiceParameter,
    name: Name,
    guest: Annotated[str | None, Query(json_schema_extra={"pattern": GUEST_PATTERN})] = None,
) -> Response:
    """The snapshots of one guest, or of all."""
    return Reply(await service.orchestrator.snapshots(service.deployment(name), guest))


@router.get("/deployments/{name}/capture", **described(None, _CONFLICT, _BAD_GATEWAY, stream=PCAP))
async def get_capture(
    service: ServiceParameter,
    name: Name,
    target: Annotated[
        str,
        Query(
            json_schema_extra={"pattern": TARGET_PATTERN},
            description="A guest, a bridge or the NAT network.",
        ),
    ],
    interface: Annotated[
        str | None,
        Query(
            json_schema_extra={"pattern": TARGET_PATTERN},
            description="Which one of a guest's: by number, from 0, or by the bridge it is on.",
        ),
    ] = None,
    filter: Annotated[  # noqa: A002 (as pcap-filter(7) calls it)
        str | None,
        Query(json_schema_extra={"pattern": FILTER_PATTERN}, description="An expression of pcap-filter(7)."),
    ] = None,
    snaplen: Annotated[
        int, Query(ge=1, le=MAX_SNAPLEN, description="So many bytes of each packet.")
    ] = MAX_SNAPLEN,
    count: Annotated[
        int | None, Query(ge=1, le=MAX_PACKETS, description="End after so many packets.")
    ] = None,
) -> Response:
    """Capture packets, from now on: a stream in the format of pcap, for as long as the client listens.

    It ends with `count` packets, or when what is captured is gone; one that fails breaks off.
    """
    given = {
        "target": target, "interface": interface, "filter": filter, "snaplen": snaplen, "count": count
    }  # fmt: skip
    try:
        wanted = msgspec.convert(given, Capture)
    except msgspec.ValidationError as error:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's parameters: {error}") from error
    return PacketReply(await service.capture(name, wanted), service.stopping)


# -- actions


@router.post(
    "/deployments/{name}/action",
    **described("accepted", _CONFLICT, _STOPPING, status=HTTPStatus.ACCEPTED, body="command"),
)
async def post_action(
    service: ServiceParameter,
    name: Name,
    command: Annotated[Any, Depends(body(Command))],
    who: Who,
) -> Response:
    """Begin an action; 409 while another one has the deployment to itself."""
    action = service.act(name, command, who)
    location = f"/api/deployments/{name}/actions/{action.uuid}"
    return Reply(ActionAccepted(action.uuid), HTTPStatus.ACCEPTED, {"Location": location})


@router.get("/deployments/{name}/actions", **described("actions"))
async def get_actions(service: ServiceParameter, name: Name) -> Response:
    """The deployment's actions, the latest first."""
    return Reply(service.actions(name))


@router.get("/deployments/{name}/actions/{uuid}", **described("action"))
async def get_action(service: ServiceParameter, name: Name, uuid: Uuid) -> Response:
    """One action."""
    return Reply(service.action(name, uuid))


@router.post(
    "/deployments/{name}/actions/{uuid}/cancel",
    **described("action", _STOPPING, status=HTTPStatus.ACCEPTED),
)
async def cancel_action(service: ServiceParameter, name: Name, uuid: Uuid) -> Response:
    """Stop an action at the next point from which others can go on; no error if it has ended."""
    return Reply(service.cancel(name, uuid), HTTPStatus.ACCEPTED)


@router.get("/deployments/{name}/actions/{uuid}/steps", **described("steps"))
async def get_steps(service: ServiceParameter, name: Name, uuid: Uuid) -> Response:
    """The action's steps so far, in the order they began."""
    return Reply(service.steps(name, uuid))


@router.get("/deployments/{name}/actions/{uuid}/lines", **described("lines"))
async def get_lines(
    service: ServiceParameter,
    name: Name,
    uuid: Uuid,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=_LINES)] = _LINES,
) -> Response:
    """Some of the action's log."""
    return Reply(service.lines(name, uuid, after=after, limit=limit))


@router.get(
    "/deployments/{name}/actions/{uuid}/logs",
    **described(None, HTTPStatus.UPGRADE_REQUIRED, status=HTTPStatus.SWITCHING_PROTOCOLS),
)
async def get_log(service: ServiceParameter, name: Name, uuid: Uuid, after: After = 0) -> Response:
    """The log as a WebSocket: each message one line as JSON (LogLine), what there is first, then as it comes.

    Closed with 1000 when the action has ended. Whoever loses the connection asks again, with the sequence of
    the last line as `after`.
    """
    service.action(name, uuid)
    raise ApiError(
        HTTPStatus.UPGRADE_REQUIRED,
        f"the log after line {after} is a WebSocket",
        hint="to read it without one: the same address, with lines for logs",
    )
