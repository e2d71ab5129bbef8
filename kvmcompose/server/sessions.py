"""Sessions of browsers, and one-time links that begin them. Both are in memory only: a restart ends them.

A session has two secrets. Its cookie is out of the reach of scripts, but browsers send cookies to all ports
of a host name, and so to servers of other users of this machine. Its key is known to pages of one origin
only. A request needs both. Secrets have 256 random bits, so none can be guessed, and are kept as a SHA-256.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable, Iterable
from uuid import uuid4

import msgspec

from kvmcompose.server.tokens import Token, digest

#: How long a link is valid, and how much longer it is known what became of it, in seconds.
LINK_SECONDS, LINK_KEPT_SECONDS = 60.0, 60.0
#: A session ends after so many seconds without a request or an open stream, and after so many in any case.
IDLE_SECONDS, LONGEST_SECONDS = 12 * 3600.0, 7 * 24 * 3600.0
#: For each source (see ``Holder``). One more ends that which was used least recently.
MOST_LINKS, MOST_SESSIONS = 8, 16

_BYTES = 32


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Whose session it is: ``uid`` of a local user, or a ``token``; neither for the administrators' token.

    ``source``: links and sessions with the same one are counted together.
    """

    source: str
    uid: int | None = None
    token: Token | None = None


class BrowserSession(msgspec.Struct, eq=False, kw_only=True):
    """A session. ``name`` is for the audit log. Times are of the clock of ``Sessions``, in seconds."""

    name: str
    holder: Holder
    cookie_sha256: str
    key_sha256: str
    began: float
    used: float
    ended: bool = False


class OneTimeLink(msgspec.Struct, eq=False, kw_only=True):
    """A link. ``user`` is the local user whose browser may use it; None: not known."""

    uuid: str
    holder: Holder
    user: int | None
    code_sha256: str
    expires: float
    used: asyncio.Event


def _boot_seconds() -> float:
    """Return a time that no setting of the clock changes, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class OneTimeLinks:
    """The links of a server."""

    def __init__(self, clock: Callable[[], float] = _boot_seconds) -> None:
        self._clock = clock
        self._links: dict[str, OneTimeLink] = {}

    def create(self, holder: Holder, user: int | None) -> tuple[OneTimeLink, str]:
        """Return a link and its code."""
        self._forget_old()
        own = [each for each in self._links.values() if each.holder.source == holder.source]
        for each in own[: max(0, len(own) - MOST_LINKS + 1)]:
            del self._links[each.uuid]
        code = secrets.token_urlsafe(_BYTES)
        link = OneTimeLink(
            uuid=str(uuid4()),
            holder=holder,
            user=user,
            code_sha256=digest(code),
            expires=self._clock() + LINK_SECONDS,
            used=asyncio.Event(),
        )
        self._links[link.uuid] = link
        return link, code

    def with_code(self, code: str) -> OneTimeLink | None:
        """Return the link with a code, if it may still be used."""
        wanted = digest(code)
        for each in self._links.values():
            if hmac.compare_digest(each.code_sha256, wanted) and self.is_open(each):
                return each
        return None

    def of(self, source: str, uuid: str) -> OneTimeLink | None:
        """Return a link of a source, also one that is over."""
        link = self._links.get(uuid)
        return link if link is not None and link.holder.source == source else None

    def is_open(self, link: OneTimeLink) -> bool:
        """Return whether a link may still be used."""
        return not link.used.is_set() and self.seconds_left(link) > 0

    def seconds_left(self, link: OneTimeLink) -> float:
        """Return for how much longer a link is valid."""
        return max(0.0, link.expires - self._clock())

    def _forget_old(self) -> None:
        oldest = self._clock() - LINK_KEPT_SECONDS
        self._links = {uuid: each for uuid, each in self._links.items() if each.expires > oldest}


class Sessions:
    """The sessions of a server, by the SHA-256 of their cookies."""

    def __init__(self, clock: Callable[[], float] = _boot_seconds) -> None:
        self._clock = clock
        self._sessions: dict[str, BrowserSession] = {}
        self.links = OneTimeLinks(clock)

    @property
    def any(self) -> bool:
        """Whether a browser is signed in."""
        return any(self._is_current(each) for each in self._sessions.values())

    def begin(self, holder: Holder) -> tuple[BrowserSession, str, str]:
        """Return a new session, its cookie and its key."""
        for each in [each for each in self._sessions.values() if not self._is_current(each)]:
            self.end(each)
        own = [each for each in self._sessions.values() if each.holder.source == holder.source]
        for each in sorted(own, key=lambda session: session.used)[: max(0, len(own) - MOST_SESSIONS + 1)]:
            self.end(each)
        cookie, key = secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES)
        now = self._clock()
        session = BrowserSession(
            name=secrets.token_hex(4),
            holder=holder,
            cookie_sha256=digest(cookie),
            key_sha256=digest(key),
            began=now,
            used=now,
        )
        self._sessions[session.cookie_sha256] = session
        return session, cookie, key

    def find(self, cookies: Iterable[str], key: str) -> BrowserSession | None:
        """Return the session with this key and one of these cookies."""
        wanted = digest(key)
        for cookie in cookies:
            found = self._sessions.get(digest(cookie))
            if found is not None and hmac.compare_digest(found.key_sha256, wanted) and self.use(found):
                return found
        return None

    def use(self, session: BrowserSession) -> bool:
        """Return whether a session goes on; if so, it has just been used."""
        if not self._is_current(session):
            return False
        session.used = self._clock()
        return True

    def end(self, session: BrowserSession) -> None:
        """End a session, if it has not ended."""
        session.ended = True
        self._sessions.pop(session.cookie_sha256, None)

    def seconds_left(self, session: BrowserSession) -> float:
        """Return after how many seconds a session ends, however much it is used."""
        return session.began + LONGEST_SECONDS - self._clock()

    def _is_current(self, session: BrowserSession) -> bool:
        now = self._clock()
        lasts = now < session.used + IDLE_SECONDS and now < session.began + LONGEST_SECONDS
        return lasts and not session.ended
