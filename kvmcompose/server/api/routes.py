"""The routes of the API; each calls one method of the service."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from kvmcompose.core.access import MOST_CHARACTERS
from kvmcompose.core.commands import (
    FILTER_PATTERN,
    GUEST_PATTERN,
    MAX_PACKETS,
    MAX_SNAPLEN,
    PROJECT_PATTERN,
    TARGET_PATTERN,
    Capture,
    Command,
)
from kvmcompose.core.deployment import ActionAccepted, NewDeployment
from kvmcompose.core.planned import PlanRequest
from kvmcompose.server.api.byte_reply import PCAP, ByteReply
from kvmcompose.server.api.event_reader import Wanted
from kvmcompose.server.api.guest_shell import COLUMNS, ROWS
from kvmcompose.server.api.headers import matches
from kvmcompose.server.api.openapi import Alive, described
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.streaming import MAX_SEQUENCE
from kvmcompose.server.api.terminal_stream import LEAST_WINDOW, MOST_WINDOW
from kvmcompose.server.api.wire import Reply, body
from kvmcompose.server.people import Asker

_CONFLICT = HTTPStatus.CONFLICT
_BAD_GATEWAY = HTTPStatus.BAD_GATEWAY
_STOPPING = HTTPStatus.SERVICE_UNAVAILABLE
_LINES = 1000
#: How many stacks of a picture a request can name; its line has a limit, too.
_STACKS = 200


async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


async def known_parameters(request: Request) -> None:
    """Reject unknown parameters, which are usually misspelt."""
    known = {each.alias for each in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"unknown parameter {name!r}",
                hint=f"known parameters: {', '.join(sorted(known))}" if known else None,
            )


async def _asker(request: Request) -> Asker:
    """Return the sender of the request, as identified by the guard."""
    return cast(Asker, request.scope["kvmcompose.asker"])


ServiceParameter = Annotated[Service, Depends(_service)]
Who = Annotated[Asker, Depends(_asker)]
Name = Annotated[str, Path(json_schema_extra={"pattern": PROJECT_PATTERN})]
Guest = Annotated[str, Path(json_schema_extra={"pattern": GUEST_PATTERN})]
Uuid = Annotated[str, Path(json_schema_extra={"format": "uuid"})]
#: How long a request for a console may wait, in seconds: proxies end what is silent for a minute.
MOST_WAITING = 30

After = Annotated[int, Query(ge=0, le=MAX_SEQUENCE, description="Only lines after this one.")]

router = APIRouter(prefix="/api", dependencies=[Depends(known_parameters)])


@router.get("/health", **described("health"))
async def get_health(request: Request, service: ServiceParameter) -> Response:
    """Return whether the server is running; with a token, also its version and process."""
    return Reply(service.health if request.scope["kvmcompose.trusted"] else Alive())


# -- deployments


@router.get("/deployments", **described("deployments"))
async def get_deployments(
    service: ServiceParameter,
    who: Who,
    look: Annotated[
        bool, Query(description="Look at the hosts first, for some seconds, which of them are degraded.")
    ] = False,
) -> Response:
    """All deployments, by name; only name, state and owner of those of other users.

    Without `look`, those that are up are `degraded` if an earlier look has found so. As a WebSocket, the list
    comes again after each change, and the server looks every few seconds.
    """
    if look:
        await service.find_conditions(who)
    return Reply(service.deployments(who))


@router.post(
    "/deployments",
    **described("deployment", _CONFLICT, _STOPPING, status=HTTPStatus.CREATED, body="new"),
)
async def post_deployment(
    service: ServiceParameter, who: Who, new: Annotated[NewDeployment, Depends(body(NewDeployment))]
) -> Response:
    """Register a project under a name that is not in use."""
    made = await service.create(who, new)
    return Reply(made, HTTPStatus.CREATED, {"Location": f"/api/deployments/{made.name}"})


@router.get("/deployments/{name}", **described("deployment"))
async def get_deployment(service: ServiceParameter, who: Who, name: Name) -> Response:
    """One deployment; only name, state and owner of that of another user."""
    return Reply(service.deployment(who, name))


@router.put(
    "/deployments/{name}",
    **described("deployment", _CONFLICT, _STOPPING, also=HTTPStatus.CREATED, body="new"),
)
async def put_deployment(
    service: ServiceParameter,
    who: Who,
    name: Name,
    new: Annotated[NewDeployment, Depends(body(NewDeployment))],
) -> Response:
    """Register a project or, while it is down, change its folder. Idempotent."""
    if new.name != name:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the body names {new.name!r}, the path {name!r}")
    deployment, is_new = await service.put(who, new)
    return Reply(deployment, HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@router.delete("/deployments/{name}", **described(None, _CONFLICT, _STOPPING, status=HTTPStatus.NO_CONTENT))
async def delete_deployment(service: ServiceParameter, who: Who, name: Name) -> Response:
    """Remove a deployment that is down, and its history. Its folder is not touched."""
    service.remove(who, name)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get("/deployments/{name}/state", **described("state", _CONFLICT))
async def get_state(service: ServiceParameter, who: Who, name: Name) -> Response:
    """The state.json of what is up, or that of the project folder when nothing is up."""
    state = await service.orchestrator.state(service.own(who, name))
    return Response(state, media_type=Reply.media_type)


@router.get("/deployments/{name}/status", **described("status", _CONFLICT, _BAD_GATEWAY))
async def get_status(service: ServiceParameter, who: Who, name: Name) -> Response:
    """The deployment and the current state of its guests."""
    return Reply(await service.status(who, name))


@router.get("/deployments/{name}/topology", **described("picture", _CONFLICT, unchanged=True))
async def get_topology(
    request: Request,
    service: ServiceParameter,
    who: Who,
    name: Name,
    opened: Annotated[
        list[str] | None,
        Query(
            alias="open",
            max_length=_STACKS,
            description="The stacks whose guests are drawn one by one, up to 1000 in all.",
        ),
    ] = None,
) -> Response:
    """The topology of what is up, or of the project folder when nothing is: as a graph, and drawn as SVG.

    Large testbeds are folded into stacks. Who was drawn before stays in its place. With an `If-None-Match` of
    the `ETag` of an earlier answer, 304 while that is still right.
    """
    picture = await service.orchestrator.picture(service.own(who, name), opened or ())
    tag = f'"{picture.tag}"'
    headers = {"ETag": tag}
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(picture.content, headers=headers, media_type=Reply.media_type)


@router.post("/deployments/{name}/plan", **described("plan", _CONFLICT, _BAD_GATEWAY, body="planned"))
async def post_plan(
    service: ServiceParameter,
    who: Who,
    name: Name,
    planned: Annotated[PlanRequest, Depends(body(PlanRequest))],
) -> Response:
    """What `up` would change on hosts, and why, for a testbed that need not be built yet. Changes nothing."""
    return Reply(await service.plan(who, name, planned))


@router.get("/deployments/{name}/access", **described("access", _CONFLICT, _BAD_GATEWAY))
async def get_access(service: ServiceParameter, who: Who, name: Name) -> Response:
    """How to reach its guests from the server's machine."""
    return Reply(await service.orchestrator.access(service.own(who, name)))


@router.get("/deployments/{name}/snapshots", **described("snapshots", _CONFLICT, _BAD_GATEWAY))
async def get_snapshots(
    service: ServiceParameter,
    who: Who,
    name: Name,
    guest: Annotated[str | None, Query(json_schema_extra={"pattern": GUEST_PATTERN})] = None,
) -> Response:
    """The snapshots of one guest, or of all."""
    return Reply(await service.orchestrator.snapshots(service.own(who, name), guest))


@router.get("/deployments/{name}/console", **described("console", _CONFLICT, _BAD_GATEWAY))
async def get_console(
    service: ServiceParameter,
    who: Who,
    name: Name,
    guest: Annotated[str, Query(json_schema_extra={"pattern": GUEST_PATTERN})],
    after: Annotated[
        int | None, Query(ge=0, le=MAX_SEQUENCE, description="From this offset (default: the end).")
    ] = None,
    wait: Annotated[
        int,
        Query(ge=0, le=MOST_WAITING, description="Seconds to wait, where nothing follows the offset yet."),
    ] = 0,
) -> Response:
    """What the serial console of a guest has printed since its last start, at most 262144 bytes of it."""
    return Reply(await service.console(who, name, guest, after, wait))


@router.get("/deployments/{name}/capture", **described(None, _CONFLICT, _BAD_GATEWAY, stream=PCAP))
async def get_capture(
    service: ServiceParameter,
    who: Who,
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
            description="An interface of the guest: by number, from 0, or by its bridge.",
        ),
    ] = None,
    filter: Annotated[  # noqa: A002 (as pcap-filter(7) calls it)
        str | None,
        Query(json_schema_extra={"pattern": FILTER_PATTERN}, description="An expression of pcap-filter(7)."),
    ] = None,
    snaplen: Annotated[
        int, Query(ge=1, le=MAX_SNAPLEN, description="Bytes to keep of each packet.")
    ] = MAX_SNAPLEN,
    count: Annotated[
        int | None, Query(ge=1, le=MAX_PACKETS, description="Stop after this many packets.")
    ] = None,
) -> Response:
    """Capture packets: a stream in pcap format, until the client disconnects.

    It ends after `count` packets, or when the captured interface disappears. It is aborted on failure.
    """
    given = {
        "target": target, "interface": interface, "filter": filter, "snaplen": snaplen, "count": count
    }  # fmt: skip
    try:
        wanted = msgspec.convert(given, Capture)
    except msgspec.ValidationError as error:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's parameters: {error}") from error
    return ByteReply(await service.capture(who, name, wanted), PCAP, service.stopping)


@router.get(
    "/deployments/{name}/events",
    **described(None, HTTPStatus.UPGRADE_REQUIRED, status=HTTPStatus.SWITCHING_PROTOCOLS, messages="event"),
)
async def get_events(
    service: ServiceParameter,
    who: Who,
    name: Name,
    after: Annotated[
        int | None,
        Query(
            ge=0,
            le=MAX_SEQUENCE,
            description="Only events after this number; without it, the current state and what follows.",
        ),
    ] = None,
    action: Annotated[
        str | None,
        Query(json_schema_extra={"format": "uuid"}, description="Only events of this action, until it ends."),
    ] = None,
    status: Annotated[
        bool,
        Query(description="Also the live status, every few seconds. Excludes `action`."),
    ] = False,
) -> Response:
    """The events as a WebSocket: each message is one event as JSON; stored events, then new ones.

    After a lost connection, ask again with the number of the last event as `after`. Closed with 1000 when the
    action has ended or the deployment was removed, with 1001 when the server stops. `/asyncapi.json` has the
    messages, too.
    """
    service.events(who, name, Wanted(after=after, action=action, status=status))
    raise ApiError(HTTPStatus.UPGRADE_REQUIRED, "the events require a WebSocket")


# -- actions


@router.post(
    "/deployments/{name}/action",
    **described("accepted", _CONFLICT, _STOPPING, status=HTTPStatus.ACCEPTED, body="command"),
)
async def post_action(
    service: ServiceParameter,
    who: Who,
    name: Name,
    command: Annotated[Any, Depends(body(Command))],
) -> Response:
    """Start an action; 409 while another one excludes it."""
    action = await service.act(who, name, command)
    location = f"/api/deployments/{name}/actions/{action.uuid}"
    return Reply(ActionAccepted(action.uuid), HTTPStatus.ACCEPTED, {"Location": location})


@router.get("/deployments/{name}/actions", **described("actions"))
async def get_actions(service: ServiceParameter, who: Who, name: Name) -> Response:
    """The actions of the deployment, the latest first."""
    return Reply(service.actions(who, name))


@router.get("/deployments/{name}/actions/{uuid}", **described("action"))
async def get_action(service: ServiceParameter, who: Who, name: Name, uuid: Uuid) -> Response:
    """One action."""
    return Reply(service.action(who, name, uuid))


@router.post(
    "/deployments/{name}/actions/{uuid}/cancel",
    **described("action", _STOPPING, status=HTTPStatus.ACCEPTED),
)
async def cancel_action(service: ServiceParameter, who: Who, name: Name, uuid: Uuid) -> Response:
    """Stop an action at the next safe point; no error if it has ended."""
    return Reply(service.cancel(who, name, uuid), HTTPStatus.ACCEPTED)


@router.get("/deployments/{name}/actions/{uuid}/steps", **described("steps"))
async def get_steps(service: ServiceParameter, who: Who, name: Name, uuid: Uuid) -> Response:
    """The action's steps so far, in the order they began."""
    return Reply(service.steps(who, name, uuid))


@router.get("/deployments/{name}/actions/{uuid}/lines", **described("lines"))
async def get_lines(
    service: ServiceParameter,
    who: Who,
    name: Name,
    uuid: Uuid,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=_LINES)] = _LINES,
) -> Response:
    """A part of the action's log."""
    return Reply(service.lines(who, name, uuid, after=after, limit=limit))


@router.get(
    "/deployments/{name}/actions/{uuid}/logs",
    **described(None, HTTPStatus.UPGRADE_REQUIRED, status=HTTPStatus.SWITCHING_PROTOCOLS, messages="line"),
)
async def get_log(service: ServiceParameter, who: Who, name: Name, uuid: Uuid, after: After = 0) -> Response:
    """The log as a WebSocket: each message is one line as JSON (LogLine); stored lines, then new ones.

    Closed with 1000 when the action has ended. After a lost connection, ask again with the sequence of the
    last line as `after`.
    """
    service.action(who, name, uuid)
    raise ApiError(
        HTTPStatus.UPGRADE_REQUIRED,
        f"the log after line {after} requires a WebSocket",
        hint="without one, use the same address with `lines` in place of `logs`",
    )


@router.get(
    "/deployments/{name}/actions/{uuid}/input",
    **described(None, HTTPStatus.UPGRADE_REQUIRED, _CONFLICT, status=HTTPStatus.SWITCHING_PROTOCOLS),
)
async def get_input(service: ServiceParameter, who: Who, name: Name, uuid: Uuid) -> Response:
    """The input of an `exec` with `stdin`, as a WebSocket, for one client: binary messages are the bytes.

    At most 262144 bytes may be on their way: text messages from the server say how many the command has taken
    so far. Close with 1000 at the end of the input; any other end of the connection ends the command.
    """
    service.input(who, name, uuid)
    raise ApiError(HTTPStatus.UPGRADE_REQUIRED, "the input of a command requires a WebSocket")


@router.get(
    "/deployments/{name}/guests/{guest}/ssh",
    **described(
        None, HTTPStatus.UPGRADE_REQUIRED, _CONFLICT, _BAD_GATEWAY, status=HTTPStatus.SWITCHING_PROTOCOLS
    ),
)
async def get_ssh(service: ServiceParameter, who: Who, name: Name, guest: Guest) -> Response:
    """A connection to the SSH server of a guest, as a WebSocket: binary messages are the bytes, both ways.

    A message from the client has at most 4096 bytes.

    Closed with 1000 when the guest has closed the connection.
    """
    service.own(who, name)
    raise ApiError(HTTPStatus.UPGRADE_REQUIRED, f"a connection to {guest} requires a WebSocket")


@router.get("/deployments/{name}/guests/{guest}/terminals", **described("terminals", _CONFLICT, _BAD_GATEWAY))
async def get_terminals(service: ServiceParameter, who: Who, name: Name, guest: Guest) -> Response:
    """What of a guest can be seen in a terminal and on a screen."""
    return Reply(await service.terminals(who, name, guest))


@router.get(
    "/deployments/{name}/guests/{guest}/console",
    **described(
        None,
        HTTPStatus.UPGRADE_REQUIRED,
        _CONFLICT,
        _BAD_GATEWAY,
        status=HTTPStatus.SWITCHING_PROTOCOLS,
        messages="console_opened",
    ),
)
async def get_guest_console(
    service: ServiceParameter,
    who: Who,
    name: Name,
    guest: Guest,
    force: Annotated[bool, Query(description="Take the console from another user.")] = False,
    watch: Annotated[
        bool, Query(description="Only what the guest prints; any number of clients may.")
    ] = False,
    window: Annotated[
        int | None,
        Query(
            ge=LEAST_WINDOW,
            le=MOST_WINDOW,
            description="Send at most so many bytes more than the client has taken, which it reports.",
        ),
    ] = None,
) -> Response:
    """The serial console of a guest, as a WebSocket.

    The first message is text: what this console does for the client (`ConsoleOpened`). Binary messages are
    bytes: from the server what the guest prints, first what it printed before; from the client, if the
    console takes input, what is typed, at most 4096 bytes in a message. Where it takes none, because another
    user has it, the client may not change anything, or the guest is off or a container, what the guest prints
    is sent all the same. With `window`, text messages from the client say how many bytes it has taken so far;
    of what a guest prints beyond that, the newest is kept.

    Closed with 1000 when the guest went off or another user took the console, with 1001 when the server
    stops, with 1003 for a message that is not accepted, with 1011 when it fails.
    """
    service.own(who, name)
    raise ApiError(
        HTTPStatus.UPGRADE_REQUIRED,
        f"the console of {guest} requires a WebSocket"
        + ", to take it from another user" * force
        + ", with a window" * (window is not None),
        hint=None if watch else "without one: GET /api/deployments/NAME/console has what it has printed",
    )


@router.get(
    "/deployments/{name}/guests/{guest}/screen",
    **described(
        None, HTTPStatus.UPGRADE_REQUIRED, _CONFLICT, _BAD_GATEWAY, status=HTTPStatus.SWITCHING_PROTOCOLS
    ),
)
async def get_screen(service: ServiceParameter, who: Who, name: Name, guest: Guest) -> Response:
    """The screen of a guest by VNC, as a WebSocket: binary messages are the bytes of RFB (RFC 6143).

    A message from the client has at most 4096 bytes. Closed with 1000 when the guest has closed the
    connection. Without a WebSocket: why there is no screen to see, if so.
    """
    (await service.open_screen(who, name, guest)).close()
    raise ApiError(HTTPStatus.UPGRADE_REQUIRED, f"the screen of {guest} requires a WebSocket")


@router.get(
    "/deployments/{name}/guests/{guest}/shell",
    **described(
        None,
        HTTPStatus.UPGRADE_REQUIRED,
        _CONFLICT,
        _BAD_GATEWAY,
        status=HTTPStatus.SWITCHING_PROTOCOLS,
        messages="shell_ended",
    ),
)
async def get_shell(
    service: ServiceParameter,
    who: Who,
    name: Name,
    guest: Guest,
    columns: Annotated[
        int, Query(ge=1, le=MOST_CHARACTERS, description="The width of the terminal.")
    ] = COLUMNS,
    rows: Annotated[int, Query(ge=1, le=MOST_CHARACTERS, description="Its height.")] = ROWS,
    window: Annotated[
        int | None,
        Query(
            ge=LEAST_WINDOW,
            le=MOST_WINDOW,
            description="Send at most so many bytes more than the client has taken, which it reports.",
        ),
    ] = None,
) -> Response:
    """A shell in a container, with a terminal, as a WebSocket: binary messages are the bytes, both ways.

    A message from the client has at most 4096 bytes. Text messages from the client say how large the
    terminal is now (`TerminalSize`), and with `window` how many bytes it has taken so far. The last message
    from the server is text: how the shell has ended (`ShellEnded`). A shell whose client leaves is ended as
    by a terminal that goes away (SIGHUP).

    Closed with 1000 when the shell has ended, with 1001 when the server stops, with 1003 for a message that
    is not accepted, with 1011 when it fails. Without a WebSocket: why there is no shell, if so.
    """
    await service.check_shell(who, name, guest)
    raise ApiError(
        HTTPStatus.UPGRADE_REQUIRED,
        f"a shell in {guest}, {columns} x {rows}, requires a WebSocket"
        + ", with a window" * (window is not None),
        hint=f"without one: kvm-compose exec {guest} -- COMMAND",
    )
