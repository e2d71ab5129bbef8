"""Routes of sessions: who sends the requests, signing in and out, and one-time links for browsers."""

from __future__ import annotations

import asyncio
import pwd
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response
from starlette.types import Scope

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.session import LinkUse, NewLink, NewSession, SignedIn, SignIn, SignInLink
from kvmcompose.effects.tcp_connections import endpoint, tcp_sockets
from kvmcompose.server.actions import NotFoundError
from kvmcompose.server.api.authentication import Authenticator
from kvmcompose.server.api.browser import cookie_header
from kvmcompose.server.api.headers import only
from kvmcompose.server.api.openapi import described
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.routes import MOST_WAITING, ServiceParameter, Uuid, Who, known_parameters
from kvmcompose.server.api.service import Service
from kvmcompose.server.api.wire import Reply, body
from kvmcompose.server.people import Asker
from kvmcompose.server.sessions import BrowserSession, Holder, OneTimeLink

#: How long the answer to a wrong code or token takes, in seconds. Right ones do not wait.
WRONG_SECONDS = 1.0
_CONFLICT = HTTPStatus.CONFLICT

router = APIRouter(prefix="/api", dependencies=[Depends(known_parameters)])


async def _authenticator(request: Request) -> Authenticator:
    return cast(Authenticator, request.scope["kvmcompose.authenticator"])


Door = Annotated[Authenticator, Depends(_authenticator)]


@router.get("/session", **described("signed-in"))
async def get_session(request: Request, service: ServiceParameter, who: Who, door: Door) -> Response:
    """Return who sends this request, by whatever means, and the server's version."""
    return Reply(_signed_in(service, who, door, request.scope["kvmcompose.session"]))


@router.post("/session", **described("session", _CONFLICT, status=HTTPStatus.CREATED, body="sign-in"))
async def post_session(
    request: Request, service: ServiceParameter, door: Door, given: Annotated[SignIn, Depends(body(SignIn))]
) -> Response:
    """Begin a session, for a browser, with the code of a one-time link or a token.

    The answer sets a cookie, and contains a key. A request of the session has both: the key in the header
    `X-Kvm-Compose-Key`, for a WebSocket as a subprotocol `key.KEY` beside `kvm-compose`. Sessions end with
    the server.
    """
    scope = request.scope
    if door.knows_peers:
        raise RefusedError(
            "a session is for a browser: on a Unix socket the kernel identifies the sender of each request"
        )
    link = door.sessions.links.with_code(given.code) if given.code is not None else None
    holder = link.holder if link is not None else door.holder_of(given.token or "")
    before: BrowserSession | None = scope.get("kvmcompose.session")
    if holder is None or not door.still_knows(holder):
        await asyncio.sleep(WRONG_SECONDS)
        raise ApiError(
            HTTPStatus.UNAUTHORIZED,
            "this link or token is not valid, or no longer",
            hint="a link is valid once, for a minute; kvm-compose ui makes another",
        )
    if link is not None:
        _check_user(scope, link)
    if before is not None:
        _check_same(before, holder, scope["kvmcompose.asker"])
        door.sessions.end(before)
    if link is not None:
        link.used.set()
    session, cookie, key = door.sessions.begin(holder)
    door.admit(scope, holder, session)
    who: Asker = scope["kvmcompose.asker"]
    who.note.changed = False  # nothing but the number of the sender's sessions
    signed_in = _signed_in(service, who, door, session)
    fields = {name: getattr(signed_in, name) for name in SignedIn.__struct_fields__}
    headers = {"Set-Cookie": cookie_header(scope, cookie)}
    return Reply(NewSession(**fields, key=key), HTTPStatus.CREATED, headers)


@router.delete("/session", **described(None, _CONFLICT, status=HTTPStatus.NO_CONTENT))
async def delete_session(request: Request, door: Door) -> Response:
    """End the session of this request, with its streams."""
    session: BrowserSession | None = request.scope["kvmcompose.session"]
    if session is None:
        raise RefusedError("this request belongs to no session")
    door.sessions.end(session)
    headers = {"Set-Cookie": cookie_header(request.scope, None)}
    return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)


@router.post("/links", **described("link", _CONFLICT, status=HTTPStatus.CREATED, body="new-link"))
async def post_link(
    request: Request,
    service: ServiceParameter,
    who: Who,
    door: Door,
    new: Annotated[NewLink, Depends(body(NewLink))],
) -> Response:
    """Make a link that signs a browser in as the sender of this request: once, within a minute.

    A server without a TCP listener opens one that only this machine reaches. The code is in the fragment of
    the address, which browsers send to no server.
    """
    if who.session is not None:
        raise ApiError(HTTPStatus.FORBIDDEN, "a session can make no links", hint="kvm-compose ui makes one")
    who.note.changed = False
    user = who.peer.uid if who.peer is not None else None
    if new.user is not None:
        user = _uid(new.user)
    link, code = door.sessions.links.create(request.scope["kvmcompose.holder"], user)
    address = f"{_origin(request.scope, service)}/#sign-in={code}"
    made = SignInLink(uuid=link.uuid, address=address, seconds=door.sessions.links.seconds_left(link))
    return Reply(made, HTTPStatus.CREATED, {"Location": f"/api/links/{link.uuid}"})


@router.get("/links/{uuid}", **described("link-use"))
async def get_link(
    request: Request,
    service: ServiceParameter,
    door: Door,
    uuid: Uuid,
    wait: Annotated[
        int, Query(ge=0, le=MOST_WAITING, description="Seconds to wait, while the link is open.")
    ] = 0,
) -> Response:
    """Whether a link of the sender has been used."""
    links = door.sessions.links
    holder: Holder = request.scope["kvmcompose.holder"]
    link = links.of(holder.source, uuid)
    if link is None:
        raise NotFoundError(f"no such link: {uuid!r}", hint="links are forgotten a minute after they expired")
    waiting = [asyncio.create_task(each.wait()) for each in (link.used, service.stopping)]
    try:
        timeout = min(wait, links.seconds_left(link))
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    if link.used.is_set():
        return Reply(LinkUse(state="used"))
    return Reply(LinkUse(state="open" if links.is_open(link) else "expired"))


def _uid(name: str) -> int:
    """Return the ID of a local user. Raises RefusedError."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError) as error:
        raise RefusedError(f"the server knows no user {name!r}") from error


def _origin(scope: Scope, service: Service) -> str:
    """Return the origin of the page: for a client that is connected by TCP, the one that it uses."""
    if scope["state"]["peer"] is not None:
        return str(service.page_address())
    host = only(scope["headers"], b"host")
    return f"{scope['scheme']}://{host}"


def _signed_in(service: Service, who: Asker, door: Authenticator, session: BrowserSession | None) -> SignedIn:
    expires = None
    if session is not None:
        left = timedelta(seconds=door.sessions.seconds_left(session))
        expires = (datetime.now(UTC) + left).isoformat(timespec="seconds").replace("+00:00", "Z")
    return SignedIn(
        name=who.person.name,
        role=who.person.role.value,
        token=who.token,
        expires=expires,
        version=service.health.version,
        drivers=service.health.drivers,
    )


def _check_user(scope: Scope, link: OneTimeLink) -> None:
    """Raise ApiError when another local user's browser uses a link.

    The address that a browser is started with can be read by all users of its machine, while it starts.
    """
    if link.user is None:
        return
    ends = endpoint(*scope["client"]), endpoint(*scope["server"])
    owners = {each.uid for each in tcp_sockets() if (each.local, each.remote) == ends}
    if not owners and not ends[0].address.is_loopback:  # it is on another machine
        return
    if not owners or owners - {0, link.user}:  # root's is a forwarded port, for example
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            "this link is for a browser of another user of this machine",
            hint="call kvm-compose ui as the user who runs the browser, or sign in with a token",
        )


def _check_same(before: BrowserSession, holder: Holder, who: Asker) -> None:
    """Raise RefusedError when someone else signs in where a session goes on.

    A link of someone else, on a page from elsewhere, must not have a user work in a foreign account.
    """
    if before.holder.source != holder.source:
        raise RefusedError(
            f"{who.person.name} is signed in here", hint="sign out first to sign in as someone else"
        )
