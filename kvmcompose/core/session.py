"""Sessions of browsers, and the links that begin them: types that the server and its clients exchange."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

_LONGEST_TOKEN = 4096
_LONGEST_NAME = 256

RoleName = Literal["admin", "user", "read-only"]


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a browser signs in with: the code of a one-time link, or a token. Exactly one of them."""

    code: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,128}$")] | None = None
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_TOKEN)] | None = None

    def __post_init__(self) -> None:
        if (self.code is None) == (self.token is None):
            raise ValueError("either 'code' or 'token' is required")


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends the requests, and to which server.

    ``token`` is the name of the token that was used. ``expires`` is when a session ends at the latest (RFC
    3339, UTC); None for a client without one. ``drivers`` is ``real`` or ``fake``.
    """

    name: str
    role: RoleName
    token: str | None
    expires: str | None
    version: str
    drivers: str


class NewSession(SignedIn, frozen=True, kw_only=True):
    """A session that has begun. Each request needs its cookie and ``key``."""

    key: str


class NewLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request for a one-time link.

    ``user`` is the login name of the local user whose browser may use it; None: the user who asks. A server
    can tell the users of its own machine apart only.
    """

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_NAME)] | None = None


class SignInLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link that signs a browser in, once. ``address`` has its code; ``seconds`` is how long it is valid."""

    uuid: str
    address: Annotated[str, msgspec.Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]_-]+/#sign-in=[A-Za-z0-9_-]+$")]
    seconds: float


class LinkUse(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a link."""

    state: Literal["open", "used", "expired"]
