"""What browsers send with requests: the cookie and the key of a session, and where the page is from.

The name of the cookie has the port that the browser connects to, because browsers send cookies to all ports
of a host name: two servers on one machine, or at the ends of two tunnels, would overwrite the other's.
"""

from __future__ import annotations

from starlette.types import Scope

from kvmcompose.server.api.headers import host_parts, only

#: The subprotocol of all WebSockets, and the prefix of one that has the session's key: the programming
#: interface of browsers cannot send any other header with a WebSocket.
SUBPROTOCOL = "kvm-compose"
_KEY_PREFIX = "key."
#: Another server on this host name can add cookies of this name, but not the key that belongs to them.
_MOST_COOKIES = 8
_HERE = frozenset({"", "none", "same-origin"})


def session_key(scope: Scope) -> str | None:
    """Return the key of a session that a request has, or None."""
    if scope["type"] == "websocket":
        keys = [each for each in scope["subprotocols"] if each.startswith(_KEY_PREFIX)]
        return keys[0].removeprefix(_KEY_PREFIX) if len(keys) == 1 else None
    return only(scope["headers"], b"x-kvm-compose-key")


def session_cookies(scope: Scope) -> list[str]:
    """Return the cookies that may be that of a session."""
    wanted = _cookie_name(scope)
    found = []
    for header, value in scope["headers"]:
        if header == b"cookie":
            for part in value.decode("latin-1").split(";"):
                name, _, content = part.strip().partition("=")
                if name == wanted:
                    found.append(content)
    return found[:_MOST_COOKIES]


def cookie_header(scope: Scope, cookie: str | None) -> str:
    """Return the Set-Cookie header (RFC 6265bis) with the cookie of a session; None: it is removed."""
    tls = "; Secure" if _is_tls(scope) else ""
    age = "; Max-Age=0" if cookie is None else ""
    return f"{_cookie_name(scope)}={cookie or ''}; Path=/; HttpOnly; SameSite=Strict{tls}{age}"


def is_foreign(scope: Scope) -> bool:
    """Return whether a page of another origin caused a request (Fetch Metadata, Sec-Fetch-Site).

    Browsers differ in what they send with WebSockets, whose Origin says the same.
    """
    site = only(scope["headers"], b"sec-fetch-site", default="")
    return scope["type"] == "http" and site not in _HERE


def _is_tls(scope: Scope) -> bool:
    return scope["scheme"] in ("https", "wss")


def _cookie_name(scope: Scope) -> str:
    """Browsers take a name with ``__Host-`` from this host only, by TLS, and for all of its paths."""
    _, port = host_parts(only(scope["headers"], b"host", default="") or "")
    tls = _is_tls(scope)
    return f"{'__Host-' if tls else ''}kvm-compose-{port or (443 if tls else 80)}"
