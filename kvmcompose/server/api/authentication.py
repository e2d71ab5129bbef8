"""Identifies the sender of a request: by the user ID on a Unix socket, by a token on TCP."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from http import HTTPStatus

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from kvmcompose.core.plain import plain
from kvmcompose.server.api.problems import problem
from kvmcompose.server.people import Asker, Peer, People, Person, Role
from kvmcompose.server.tokens import Token, Tokens

_REMARK_LENGTH = 200
#: What a client without a token may ask for.
_PUBLIC = frozenset({"/openapi.json", "/asyncapi.json", "/api/health"})


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may use a listener.

    ``token`` is the administrators' secret; None on a Unix socket, where the kernel identifies the peer.
    ``hosts`` are the accepted values of the Host header, None for any: they keep out web pages whose name was
    made to resolve to this machine (DNS rebinding).
    """

    token: str | None = None
    hosts: frozenset[str] | None = None


class Authenticator:
    """Identifies senders on one listener. ``people`` knows users' roles, ``tokens`` the named tokens."""

    def __init__(self, policy: AccessPolicy, people: People, tokens: Tokens | None = None) -> None:
        self.hosts = policy.hosts
        self._token = policy.token.encode() if policy.token is not None else None
        self._people = people
        self._tokens = tokens

    def refusal(self, scope: Scope) -> Response | None:
        """Return the refusal of an unauthenticated request, else None, with the sender in the scope."""
        scope["kvmcompose.trusted"] = True
        if self._token is None:
            return self._known_peer(scope)
        given = only(scope["headers"], b"authorization", default="")
        if given == "":
            scope["kvmcompose.trusted"] = False
            if scope["path"] in _PUBLIC:
                return None
        kind, _, secret = (given or "").partition(" ")
        secret = secret.strip()
        if kind.lower() == "bearer" and hmac.compare_digest(secret.encode(), self._token):
            admin = Person(name="administrator", role=Role.ADMIN, uid=os.geteuid())
            scope["kvmcompose.asker"] = _asker(scope, admin)
            return None
        if kind.lower() == "bearer" and self._tokens is not None:
            token = self._tokens.find(secret)
            if token is not None:
                return self._known_token(scope, token)
        return _unauthorized("invalid token" if given else "this server requires a token")

    def still_knows(self, scope: Scope) -> bool:
        """Return whether the token of a request is still valid."""
        return self._tokens is not None and self._tokens.is_good(scope["kvmcompose.token"])

    def _known_peer(self, scope: Scope) -> Response | None:
        peer: Peer | None = scope["state"]["peer"]
        if peer is None:
            return problem(HTTPStatus.FORBIDDEN, "the kernel does not report the user of this connection")
        scope["kvmcompose.asker"] = _asker(scope, self._people.of(peer.uid))
        return None

    def _known_token(self, scope: Scope, token: Token) -> Response | None:
        assert self._tokens is not None  # noqa: S101 (it was found there)
        if token.expired:
            return _unauthorized(f"the token {token.name!r} expired at {token.expires}")
        person = token.person()
        if person is None:
            return _unauthorized(
                f"the user {token.user} of the token {token.name!r} no longer has an account"
            )
        self._tokens.note_use(token)
        scope["kvmcompose.token"] = token
        scope["kvmcompose.asker"] = _asker(scope, person, token.name)
        return None


def _unauthorized(message: str) -> Response:
    return problem(
        HTTPStatus.UNAUTHORIZED,
        message,
        hint="give the file that holds it (KVM_COMPOSE_TOKEN_FILE, or --token-file)",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _asker(scope: Scope, person: Person, token: str | None = None) -> Asker:
    """Return the sender of a request, with the remark that its client adds."""
    said = (only(scope["headers"], b"x-kvm-compose-who", default="") or "").encode("latin-1")
    remark = plain(said.decode(errors="replace"))
    return Asker(
        person=person,
        peer=scope["state"]["peer"],
        address=address_of(scope),
        token=token,
        remark=remark.strip()[:_REMARK_LENGTH] or None,
    )


def address_of(scope: Scope) -> str | None:
    """Return the remote address of a TCP connection, None for others."""
    client = scope.get("client")
    return client[0] if client and scope["state"]["peer"] is None else None


def only(headers: Iterable[tuple[bytes, bytes]], name: bytes, *, default: str | None = None) -> str | None:
    """Return a header's value; ``default`` when it is missing, None when it is repeated."""
    found = [value.decode("latin-1") for key, value in headers if key == name]
    if not found:
        return default
    return found[0] if len(found) == 1 else None
