"""Identifies the sender of a request: by the user ID on a Unix socket, by a token or a session on TCP."""

from __future__ import annotations

import hmac
import os
from functools import partial
from http import HTTPStatus

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from kvmcompose.core.plain import plain
from kvmcompose.server.api.browser import session_cookies, session_key
from kvmcompose.server.api.headers import only
from kvmcompose.server.api.problems import problem
from kvmcompose.server.audit import ADMINISTRATORS, source_of
from kvmcompose.server.people import Asker, Peer, People, Person, Role
from kvmcompose.server.project_commands import ProjectCommands
from kvmcompose.server.sessions import BrowserSession, Holder, Sessions
from kvmcompose.server.tokens import Tokens

_REMARK_LENGTH = 200
#: What a client may ask for that nobody knows, besides the page's files.
_PUBLIC = frozenset({"/", "/openapi.json", "/asyncapi.json", "/api/health"})
_ASSETS = "/assets/"
_SIGN_IN = ("POST", "/api/session")


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may use a listener.

    ``token`` is the administrators' secret; None on a Unix socket, where the kernel identifies the peer.
    ``hosts`` are the accepted values of the Host header, None for any: they keep out web pages whose name was
    made to resolve to this machine (DNS rebinding).
    """

    token: str | None = None
    hosts: frozenset[str] | None = None


class Authenticator:
    """Identifies senders on one listener.

    ``people`` knows users' roles, ``tokens`` the named tokens, ``sessions`` those of browsers.
    ``commands`` are those that the server runs itself, which ask on behalf of others.
    """

    def __init__(
        self,
        policy: AccessPolicy,
        people: People,
        tokens: Tokens | None = None,
        sessions: Sessions | None = None,
        commands: ProjectCommands | None = None,
    ) -> None:
        self.hosts = policy.hosts
        self.sessions = sessions or Sessions()
        self._token = policy.token.encode() if policy.token is not None else None
        self._people = people
        self._tokens = tokens
        self._commands = commands

    @property
    def knows_peers(self) -> bool:
        """Whether the kernel identifies senders: the listener is a Unix socket."""
        return self._token is None

    def refusal(self, scope: Scope) -> Response | None:
        """Return the refusal of an unauthenticated request, else None, with the sender in the scope."""
        scope["kvmcompose.authenticator"] = self
        scope["kvmcompose.trusted"] = True
        if self.knows_peers:
            return self._known_peer(scope)
        given = only(scope["headers"], b"authorization", default="")
        if given == "":
            return self._known_session(scope)
        kind, _, secret = (given or "").partition(" ")
        holder = self.holder_of(secret.strip()) if kind.lower() == "bearer" else None
        if holder is None:
            return _unauthorized("invalid token")
        return self.admit(scope, holder)

    def holder_of(self, secret: str) -> Holder | None:
        """Return whose secret it is: the administrators', or that of a token, which may have expired."""
        if self._token is not None and hmac.compare_digest(secret.encode(), self._token):
            return Holder(source=ADMINISTRATORS)
        token = self._tokens.find(secret) if self._tokens is not None else None
        return Holder(source=f"token {token.name}", token=token) if token is not None else None

    def admit(self, scope: Scope, holder: Holder, session: BrowserSession | None = None) -> Response | None:
        """Note in the scope who sends the request, or return its refusal."""
        token, person = holder.token, self._person(holder)
        if token is not None and token.expired:
            return _unauthorized(f"the token {token.name!r} expired at {token.expires}")
        if person is None:
            assert token is not None  # noqa: S101 (everybody else is somebody)
            return _unauthorized(
                f"the user {token.user} of the token {token.name!r} no longer has an account"
            )
        if token is not None and self._tokens is not None:
            self._tokens.note_use(token)
        if token is not None or session is not None:
            scope["kvmcompose.still_known"] = partial(self.still_knows, holder, session)
        scope["kvmcompose.holder"] = holder
        scope["kvmcompose.session"] = session
        scope["kvmcompose.asker"] = _asker(scope, person, holder, session)
        return None

    def still_knows(self, holder: Holder, session: BrowserSession | None = None) -> bool:
        """Return whether a token and a session are still valid. The session has been used then."""
        if holder.token is not None and (self._tokens is None or not self._tokens.is_good(holder.token)):
            return False
        return session is None or self.sessions.use(session)

    def _person(self, holder: Holder) -> Person | None:
        if holder.token is not None:
            return holder.token.person()
        if holder.uid is not None:
            return self._people.of(holder.uid)
        return Person(name="administrator", role=Role.ADMIN, uid=os.geteuid())

    def _known_peer(self, scope: Scope) -> Response | None:
        peer: Peer | None = scope["state"]["peer"]
        if peer is None:
            return problem(HTTPStatus.FORBIDDEN, "the kernel does not report the user of this connection")
        refusal = self.admit(scope, Holder(source=source_of(None, peer), uid=peer.uid))
        wanted_by = self._commands.asker_of(peer) if self._commands is not None else None
        if wanted_by is not None:
            scope["kvmcompose.asker"] = _on_behalf(scope["kvmcompose.asker"], wanted_by)
        return refusal

    def _known_session(self, scope: Scope) -> Response | None:
        key = session_key(scope)
        session = self.sessions.find(session_cookies(scope), key) if key is not None else None
        if session is not None and self.still_knows(session.holder):
            if scope["type"] == "websocket" and only(scope["headers"], b"origin") is None:
                return problem(HTTPStatus.FORBIDDEN, "a WebSocket of a session needs an Origin header")
            return self.admit(scope, session.holder, session)
        scope["kvmcompose.trusted"] = False
        if _is_public(scope):
            return None
        if key is not None:
            return _unauthorized("the session has ended", "kvm-compose ui begins another")
        return _unauthorized("this server requires a token")


def _is_public(scope: Scope) -> bool:
    path = str(scope["path"])
    return path in _PUBLIC or path.startswith(_ASSETS) or (scope.get("method"), path) == _SIGN_IN


def _on_behalf(asker: Asker, wanted_by: Asker) -> Asker:
    """Return the sender for a command that the server runs: who reads only, changes nothing by it."""
    read_only = wanted_by.person.role is Role.READ_ONLY
    role = Role.READ_ONLY if read_only else asker.person.role
    return msgspec.structs.replace(
        asker,
        person=msgspec.structs.replace(asker.person, role=role),
        token=wanted_by.token,
        session=wanted_by.session,
        remark=wanted_by.remark,
        behalf=wanted_by.name,
    )


def _unauthorized(
    message: str, hint: str = "give the file that holds it (KVM_COMPOSE_TOKEN_FILE, or --token-file)"
) -> Response:
    return problem(HTTPStatus.UNAUTHORIZED, message, hint=hint, headers={"WWW-Authenticate": "Bearer"})


def _asker(scope: Scope, person: Person, holder: Holder, session: BrowserSession | None) -> Asker:
    """Return the sender of a request, with the remark that its client adds."""
    said = (only(scope["headers"], b"x-kvm-compose-who", default="") or "").encode("latin-1")
    remark = plain(said.decode(errors="replace"))
    return Asker(
        person=person,
        peer=scope["state"]["peer"],
        address=address_of(scope),
        token=holder.token.name if holder.token is not None else None,
        session=session.name if session is not None else None,
        source=holder.source,
        remark=remark.strip()[:_REMARK_LENGTH] or None,
    )


def address_of(scope: Scope) -> str | None:
    """Return the remote address of a TCP connection, None for others."""
    client = scope.get("client")
    return client[0] if client and scope["state"]["peer"] is None else None
