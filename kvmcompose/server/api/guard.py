"""Checks every request before the API sees it: who sends it, from which page, and how large it is."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvmcompose.server import limits
from kvmcompose.server.api.authentication import Authenticator
from kvmcompose.server.api.browser import SUBPROTOCOL, is_foreign
from kvmcompose.server.api.headers import host_parts, only
from kvmcompose.server.api.problems import ApiError, problem, problem_of
from kvmcompose.server.api.request_audit import RequestAudit
from kvmcompose.server.audit import Audit

#: How often a stream's token or session is checked again, in seconds.
_RECHECK_SECONDS = 0.5
_POLICY_VIOLATION = 1008
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = _SAFE | {"POST", "PUT", "DELETE", "PATCH"}
#: What a link on another page may lead to.
_PAGE = "/"
#: Names have none of the characters that are written with a percent sign.
_PATH = re.compile(r"[A-Za-z0-9/._-]*")
_FILES = re.compile(r"/api/deployments/[^/]+/guests/[^/]+/files")

#: Answers are neither stored nor taken for anything but what they say they are, unless they say more.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

log = logging.getLogger(__name__)


class Activity:
    """How busy the server is with requests."""

    def __init__(self) -> None:
        self.requests = 0
        self.last = 0.0
        self.followers = 0
        self.draining = False
        #: How many requests were answered, by method, path of the route and status.
        self.answered: Counter[tuple[str, str, int]] = Counter()

    def count(self, scope: Scope, status: int) -> None:
        """Count a request that was answered. What clients choose freely does not count apart."""
        method = scope.get("method", "GET")
        route = getattr(scope.get("route"), "path", "other")
        self.answered[method if method in _METHODS else "other", str(route), status] += 1

    def touch(self) -> None:
        """Note that a client was here just now."""
        self.last = asyncio.get_running_loop().time()


class Guard:
    """An ASGI application around another, which forwards the requests that may pass."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        activity: Activity,
        audit: Audit | None = None,
    ) -> None:
        """``audit`` records the outcome of requests."""
        self._app = app
        self._authenticator = authenticator
        self._activity = activity
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        websocket = scope["type"] == "websocket"
        exchange = _Exchange(scope, receive, send, RequestAudit(scope, self._audit))
        self._activity.requests += 1
        self._activity.followers += websocket
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await exchange.refuse(refusal)
            else:
                serving = self._app(scope, receive if websocket else exchange.receive, exchange.send)
                await self._while_authorised(scope, serving, exchange)
        except Exception as error:
            if not exchange.begun:
                await exchange.refuse(problem_of(error))
            elif websocket:
                log.exception("internal error")
        finally:
            if exchange.status is not None:
                self._activity.count(scope, exchange.status)
            self._activity.requests -= 1
            self._activity.followers -= websocket
            self._activity.touch()

    async def _while_authorised(self, scope: Scope, serving: Awaitable[None], exchange: _Exchange) -> None:
        """Serve for as long as the client's token or session is valid: streams go on for long."""
        still_known: Callable[[], bool] | None = scope.get("kvmcompose.still_known")
        if still_known is None:
            await serving
            return
        task = asyncio.ensure_future(serving)
        try:
            while not task.done() and still_known():
                await asyncio.wait((task,), timeout=_RECHECK_SECONDS)
            if task.done():
                await task
                return
            log.info("ending a stream: its token or session is no longer valid")
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await exchange.end_stream()

    def _refusal(self, scope: Scope) -> Response | None:
        headers = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > limits.HEADER_BYTES:
            return problem(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the limit is {limits.HEADER_BYTES} bytes"
            )
        if len(scope["raw_path"]) + len(scope["query_string"]) > limits.TARGET_BYTES:
            return problem(HTTPStatus.REQUEST_URI_TOO_LONG, f"the limit is {limits.TARGET_BYTES} bytes")
        host = only(headers, b"host")
        if host is None:
            return problem(HTTPStatus.BAD_REQUEST, "a request needs exactly one Host header")
        if {name for name, _ in headers} >= {b"content-length", b"transfer-encoding"}:
            return problem(HTTPStatus.BAD_REQUEST, "Content-Length and Transfer-Encoding exclude each other")
        elsewhere = self._elsewhere(scope, host)
        if elsewhere is not None:
            return elsewhere
        if _PATH.fullmatch(scope["raw_path"].decode("latin-1")) is None:
            return problem(HTTPStatus.NOT_FOUND, "no such resource")
        refusal = self._authenticator.refusal(scope)
        if refusal is None and self._activity.draining and scope.get("method", "GET") not in _SAFE:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping", hint="try again in a moment"
            )
        length = only(headers, b"content-length", default="0")
        most = _largest_body(scope)
        if refusal is None and length and length.isdecimal() and int(length) > most:
            return problem_of(_too_large(most))
        return refusal

    def _elsewhere(self, scope: Scope, host: str) -> Response | None:
        """Refuse a request for another server, or of a page of another origin."""
        if self._authenticator.hosts is not None and host_parts(host)[0] not in self._authenticator.hosts:
            return problem(
                HTTPStatus.FORBIDDEN,
                f"this server is not {host!r}",
                hint="use the address that it listens on",
            )
        origin = only(scope["headers"], b"origin", default="")
        if origin is None or (origin and _place(origin) != host.lower()):
            return problem(HTTPStatus.FORBIDDEN, "cross-origin request rejected")
        if is_foreign(scope) and scope["path"] != _PAGE:
            return problem(HTTPStatus.FORBIDDEN, "request of another site's page rejected")
        return None


class _Exchange:
    """A request and its answer on their way: limits the one, and records the other for the audit log.

    What the application leaves unread of a body is read before the answer ends, within limits: a client that
    is still sending would receive a reset instead of it.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: RequestAudit) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._record = record
        names = {name for name, _ in scope["headers"]}
        self._unread = scope["type"] == "http" and bool(names & {b"content-length", b"transfer-encoding"})
        self._size = 0
        self._most = _largest_body(scope)
        self._deadline = asyncio.get_running_loop().time() + limits.BODY_SECONDS
        self._passed_on = _is_passed_on(scope)
        self._refused = False
        self.begun = False
        #: The status of the answer, as soon as it begins.
        self.status: int | None = None

    async def receive(self) -> Message:
        """Return the next part of the body. Raises ApiError for one that is too large or too slow."""
        if not self._unread:  # this waits for the client to disconnect
            return await self._receive()
        try:
            async with asyncio.timeout(limits.BODY_SECONDS) if self._passed_on else self._until_deadline():
                message = await self._next()
        except TimeoutError:
            raise ApiError(
                HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {limits.BODY_SECONDS} s"
            ) from None
        if self._size > self._most:
            raise _too_large(self._most)
        return message

    def _until_deadline(self) -> asyncio.Timeout:
        return asyncio.timeout_at(self._deadline)

    async def _next(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self._unread = message.get("more_body", False)
        return message

    async def _discard(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.DISCARD_SECONDS):
                while self._unread and self._size <= limits.DISCARD_BYTES:
                    await self._next()

    async def send(self, message: Message) -> None:
        """Send a part of the answer. A WebSocket for an unknown path is denied with 404."""
        kind = message["type"]
        if kind == "websocket.close" and not self.begun:
            await self.refuse(problem(HTTPStatus.NOT_FOUND, "no such resource"))
            return
        self.begun = True
        if kind == "websocket.accept":
            self.status = HTTPStatus.SWITCHING_PROTOCOLS
            if SUBPROTOCOL in self._scope["subprotocols"]:
                message["subprotocol"] = SUBPROTOCOL
        elif kind.endswith("response.start"):
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"], *(each for each in _HEADERS if each[0] not in own)
            ]  # fmt: skip
        self._record.message(message)
        if kind == "http.response.start" and (self._refused or self._unread):
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        if kind == "http.response.body" and self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._discard()
            message = {"type": kind, "body": b"", "more_body": False}
        await self._send(message)

    async def refuse(self, response: Response) -> None:
        """Answer a request that does not pass, and close its connection."""
        self._refused = True
        await response(self._scope, self._receive, self.send)

    async def end_stream(self) -> None:
        """Close a WebSocket that is open; other answers break off."""
        if self._scope["type"] == "websocket" and self.begun:
            with suppress(RuntimeError, OSError):  # it may have ended
                reason = "the token or session is no longer valid"
                await self._send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})


def _place(origin: str) -> str | None:
    """Return the host and port of an origin in lower case; None for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_passed_on(scope: Scope) -> bool:
    """Return whether the body of a request goes to a guest piece by piece, and is never kept."""
    return scope.get("method") == "PUT" and _FILES.fullmatch(str(scope["path"])) is not None


def _largest_body(scope: Scope) -> int:
    """Return the limit for the body of a request, in bytes."""
    if _is_passed_on(scope):
        return limits.ARCHIVE_BYTES
    path = str(scope["path"])
    if path.endswith(("/plan", "/project/up")) and not path.endswith("/project/plan"):
        return limits.TESTBED_BYTES
    return limits.TEXT_BYTES if path.endswith(("/project/file", "/project/check")) else limits.BODY_BYTES


def _too_large(most: int) -> ApiError:
    return ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a request has at most {most} bytes",
        hint="the API takes no files: they belong in the project folder",
    )
