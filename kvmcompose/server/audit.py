"""The audit log: who requested what, when, from where, and the outcome; one line of JSON each.

A file in the server's state folder that only its user can read or write. Allowed requests that change
something are always written. The number of other lines is bounded per source, so that nobody can fill the
disk or push out the records of others; a line says how many were left out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import time
from collections import OrderedDict
from pathlib import Path

import msgspec

from kvmcompose.server.clock import now
from kvmcompose.server.people import Asker, Peer

_BYTES = 10 * 1024 * 1024
_KEPT = 9
#: How many lines one source may write at once, and seconds per line after that; the same for all together.
_BURST, _SECONDS = 100, 10.0
_BURST_OF_ALL, _SECONDS_OF_ALL = 1000, 1.0
_SOURCES = 256
_LONGEST = 500  # characters of a value
#: The source of those who hold the administrators' token.
ADMINISTRATORS = "the administrators' token"

log = logging.getLogger(__name__)


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. ``event`` is ``request``, ``action`` (its end), ``token``, ``server`` or ``left-out``.

    ``outcome`` is ``allowed``, ``refused`` or ``failed``, for the end of an action its state. ``uid`` is the
    user whose rights apply; ``peer_uid`` and ``pid`` identify the client process, as reported by the kernel;
    ``session`` is the name of a browser's session; ``remark`` is what the client calls itself, ``behalf`` for
    whom the server itself runs it. ``count`` is the number of lines of ``source`` that were left out.
    """

    time: str
    event: str
    outcome: str | None = None
    status: int | None = None
    reason: str | None = None
    method: str | None = None
    path: str | None = None
    person: str | None = None
    role: str | None = None
    uid: int | None = None
    peer_uid: int | None = None
    pid: int | None = None
    address: str | None = None
    token: str | None = None
    session: str | None = None
    remark: str | None = None
    behalf: str | None = None
    deployment: str | None = None
    owner: str | None = None
    folder: str | None = None
    action: str | None = None
    command: dict[str, object] | None = None
    source: str | None = None
    count: int | None = None


class _Bucket:
    """A token bucket: how many lines may be written now."""

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst, self._seconds = burst, seconds
        self._left = float(burst)
        self._last = time.monotonic()
        self.left_out = 0

    def take(self) -> bool:
        """Take one line. Returns False when there is none left."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._last) / self._seconds)
        self._last = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Audit:
    """The audit log of a server."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.log"
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = _Bucket(_BURST_OF_ALL, _SECONDS_OF_ALL)
        self._fault_at = 0.0

    def write(self, entry: AuditRecord) -> None:
        """Write a line. Failures are reported in the server's log."""
        line = msgspec.json.encode(entry) + b"\n"
        try:
            if self._size() + len(line) > _BYTES:
                self._rotate()
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(self.path, flags, 0o600)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            if time.monotonic() - self._fault_at > 60:  # noqa: PLR2004 (once a minute)
                self._fault_at = time.monotonic()
                log.error("cannot write the audit log, %s: %s", self.path, error.strerror)  # noqa: TRY400

    def write_bounded(self, entry: AuditRecord, source: str) -> None:
        """Write a line unless its source has exceeded its share."""
        bucket = self._bucket(source)
        if not (bucket.take() and self._all.take()):
            if bucket.left_out == 0:
                self.write(
                    AuditRecord(time=now(), event="left-out", source=source, reason="too many: begins")
                )
            bucket.left_out += 1
            return
        if bucket.left_out:
            self.write(AuditRecord(time=now(), event="left-out", source=source, count=bucket.left_out))
            bucket.left_out = 0
        self.write(entry)

    def _bucket(self, source: str) -> _Bucket:
        if source not in self._buckets:
            if len(self._buckets) >= _SOURCES:
                self._buckets.popitem(last=False)
            self._buckets[source] = _Bucket(_BURST, _SECONDS)
        self._buckets.move_to_end(source)
        return self._buckets[source]

    def _size(self) -> int:
        try:
            return self.path.lstat().st_size
        except FileNotFoundError:
            return 0

    def _rotate(self) -> None:
        for number in range(_KEPT, 0, -1):
            older = self.path.with_name(f"audit.log.{number}")
            newer = self.path.with_name(f"audit.log.{number - 1}") if number > 1 else self.path
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)


def source_of(asker: Asker | None, peer: Peer | None) -> str:
    """Return the source whose lines are counted together.

    All users without an account are one source, and so are all TCP clients that are not authenticated.
    """
    if asker is not None:
        return asker.source
    if peer is None:
        return "strangers"
    try:
        pwd.getpwuid(peer.uid)
    except KeyError:
        return "users without an account"
    return f"uid {peer.uid}"


def short(text: str) -> str:
    """Return a text, truncated if it is very long."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
