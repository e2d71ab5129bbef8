"""The front door: whom a request is from, where it may come from, how large it may be. Before all else."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvmcompose.server.api.authentication import Authenticator, only
from kvmcompose.server.api.problems import problem, problem_of
from kvmcompose.server.api.request_audit import RequestAudit
from kvmcompose.server.audit import Audit

MAX_BODY = 1024 * 1024  # bytes
MAX_HEADERS = 16 * 1024
MAX_TARGET = 4 * 1024
_BODY_SECONDS = 30
#: Whether a stream's token is still good is looked at that often.
_LOOK_SECONDS = 0.5
_POLICY_VIOLATION = 1008
#: What is still read of a body that was refused, so that its sender gets to read the answer.
_DISCARD_BYTES = 8 * MAX_BODY
_DISCARD_SECONDS = 2
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Names have none of the characters that are written with a percent sign.
_PATH = re.compile(r"[A-Za-z0-9/._-]*")

log = logging.getLogger(__name__)


class Activity:
    """How busy the front door is."""

    def __init__(self) -> None:
        self.requests = 0
        self.last = 0.0
        self.followers = 0
        self.draining = False

    def touch(self) -> None:
        """Somebody is there."""
        self.last = asyncio.get_running_loop().time()


class Guard:
    """An ASGI application around another, that lets in what its policy allows."""

    def __init__(
        self,
        app: ASGIApp,
        identity: Authenticator,
        activity: Activity,
        audit: Audit | None = None,
    ) -> None:
        """``identity`` tells who asks, ``audit`` takes what comes of it."""
        self._app = app
        self._identity = identity
        self._activity = activity
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        websocket = scope["type"] == "websocket"
        sender = _Sender(send, RequestAudit(scope, self._audit), websocket=websocket)
        self._activity.requests += 1
        self._activity.followers += websocket
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await sender.refuse(refusal, scope, receive)
            elif websocket:
                await self._while_known(scope, self._app(scope, receive, sender), sender)
            else:
                await self._while_known(scope, self._serve(scope, receive, sender), sender)
        except Exception as error:
            if not sender.begun:
                await sender.refuse(problem_of(error), scope, receive)
            elif websocket:
                log.exception("a fault of kvm-compose itself")
        finally:
            self._activity.requests -= 1
            self._activity.followers -= websocket
            self._activity.touch()

    async def _while_known(self, scope: Scope, serving: Awaitable[None], sender: _Sender) -> None:
        """Serve for as long as the token is good that was shown: streams go on for long."""
        if "kvmcompose.token" not in scope:
            await serving
            return
        task = asyncio.ensure_future(serving)
        try:
            while not task.done() and self._identity.still_knows(scope):
                await asyncio.wait((task,), timeout=_LOOK_SECONDS)
            if task.done():
                await task
                return
            log.info("ending a stream: its token is not good any more")
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await sender.end_stream()

    async def _serve(self, scope: Scope, receive: Receive, sender: _Sender) -> None:
        body = await _body(receive)
        if isinstance(body, Response):
            await sender.refuse(body, scope, receive)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, sender)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
            return problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"at most {MAX_HEADERS} bytes")
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
            return problem(HTTPStatus.REQUEST_URI_TOO_LONG, f"at most {MAX_TARGET} bytes")
        host = only(headers, b"host")
        if host is None:
            return problem(HTTPStatus.BAD_REQUEST, "a request has one Host header")
        if {name for name, _ in headers} >= {b"content-length", b"transfer-encoding"}:
            return problem(HTTPStatus.BAD_REQUEST, "a request has one length")
        if self._identity.hosts is not None and _host_name(host) not in self._identity.hosts:
            return problem(
                HTTPStatus.FORBIDDEN,
                f"this server is not {host!r}",
                hint="ask for it by the address that it listens on",
            )
        origin = only(headers, b"origin", default="")
        if origin is None or (origin and urlsplit(origin).netloc.lower() != host.lower()):
            return problem(HTTPStatus.FORBIDDEN, "pages from elsewhere have no business here")
        if _PATH.fullmatch(scope["raw_path"].decode("latin-1")) is None:
            return problem(HTTPStatus.NOT_FOUND, "there is nothing at this address")
        refusal = self._identity.refusal(scope)
        if refusal is None and self._activity.draining and scope.get("method", "GET") not in _SAFE:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "the server is about to stop", hint="ask again in a moment"
            )
        length = only(headers, b"content-length", default="0")
        if refusal is None and length is not None and length.isdecimal() and int(length) > MAX_BODY:
            return _too_large()
        return refusal


class _Sender:
    """Passes an answer on, and knows whether one has begun. A WebSocket that is turned away is told why."""

    def __init__(self, send: Send, record: RequestAudit, *, websocket: bool) -> None:
        self._send = send
        self._record = record
        self._websocket = websocket
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if not self.begun and message["type"] == "websocket.close":
            await self._deny(problem(HTTPStatus.NOT_FOUND, "there is nothing at this address"))
            return
        self.begun = True
        self._record.message(message)
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await self._send(message)

    async def refuse(self, response: Response, scope: Scope, receive: Receive) -> None:
        """Answer what does not get in, and let go of the connection."""
        self.begun = True
        if self._websocket:
            await self._deny(response)
            return
        self._record.refusal(response)
        headers = [*response.raw_headers, *_HEADERS, (b"connection", b"close")]
        await self._send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else bytes(response.body)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await _discard(receive)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def end_stream(self) -> None:
        """Break off what has begun; what has not is refused by whoever is next asked."""
        if self._websocket and self.begun:
            with suppress(RuntimeError, OSError):  # it may be over
                reason = "the token is not good any more"
                await self._send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})

    async def _deny(self, response: Response) -> None:
        self.begun = True
        self._record.refusal(response)
        await self._send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": [*response.raw_headers, *_HEADERS],
            }
        )
        await self._send({"type": "websocket.http.response.body", "body": bytes(response.body)})


_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


def _host_name(host: str) -> str:
    """``localhost`` of ``localhost:5040``, ``::1`` of ``[::1]:5040``."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::\d*)?", host)
    return (found.group(1) or found.group(2) or "").lower() if found else ""


def _too_large() -> Response:
    return problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a request has at most {MAX_BODY} bytes",
        hint="files do not travel by the API: they lie in the project folder",
    )


async def _body(receive: Receive) -> bytes | Response:
    """The request's whole body, or what to say of one that is too large or comes too slowly."""
    parts = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return b""  # the client is gone
                part = message.get("body", b"")
                size += len(part)
                if size > MAX_BODY:
                    return _too_large()
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return problem(HTTPStatus.REQUEST_TIMEOUT, f"the request did not come within {_BODY_SECONDS} s")


async def _discard(receive: Receive) -> None:
    """Read on for a moment: who is still sending would not see an answer otherwise, only a reset."""
    size = 0
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while size <= _DISCARD_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return
