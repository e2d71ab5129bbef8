"""Listening sockets with a limit: what strangers hold open leaves room for others and for what is driven.

A connection over the limit is closed at once, before any of it is read. The server's own user and root are
not counted on a Unix socket: whatever others do there, they get in.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import time
from contextlib import suppress

log = logging.getLogger(__name__)

#: Connections at a time: on one listener, and of one peer (a user on a Unix socket, an address by TCP).
PER_LISTENER, PER_PEER = 256, 128
#: Seconds between two lines of the log about refused connections.
_TELL_SECONDS = 60.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
#: So many are refused before others have their turn.
_BATCH = 64
_UCRED = struct.Struct("3i")


class GatedSocket(socket.socket):
    """A listening socket whose ``accept`` refuses what is over the limit."""

    def __init__(self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> None:
        super().__init__(family, kind, protocol)
        self._held: dict[str, int] = {}
        self._refused = 0
        self._told: float | None = None
        #: Let go of to refuse a connection when there is no other descriptor left.
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection within the limit. Raises BlockingIOError when there is none."""
        for _ in range(_BATCH):
            try:
                handle, address = self._accept()  # type: ignore[attr-defined] # as socket.accept does
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._refuse_without_descriptor()
                continue
            connection = _CountedConnection(self.family, self.type, self.proto, fileno=handle)
            peer = self._peer(connection, address)
            if peer is None:
                return connection, address
            if sum(self._held.values()) < PER_LISTENER and self._held.get(peer, 0) < PER_PEER:
                self._held[peer] = self._held.get(peer, 0) + 1
                connection.gate, connection.peer = self, peer
                return connection, address
            connection.close()
            self._note(f"of {peer}")
        raise BlockingIOError

    def left(self, peer: str) -> None:
        """A connection has ended."""
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]

    def close(self) -> None:
        """Listen no more."""
        super().close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _peer(self, connection: socket.socket, address: object) -> str | None:
        """Whose connection it is; None for those who are always let in."""
        if self.family != socket.AF_UNIX:
            return str(address[0]) if isinstance(address, tuple) else "unknown"
        _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return None if uid in (0, os.geteuid()) else f"uid {uid}"

    def _refuse_without_descriptor(self) -> None:
        """Take the next connection and close it; left where it is, it would have us look again and again."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        with suppress(OSError):
            handle, _ = self._accept()  # type: ignore[attr-defined] # as above
            os.close(handle)
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._note("as no file descriptor is left")
        if self._spare is None:
            raise BlockingIOError

    def _note(self, why: str) -> None:
        self._refused += 1
        now = time.monotonic()
        if self._told is None or now - self._told >= _TELL_SECONDS:
            log.warning("connections refused: %d since the last such line, the latest %s", self._refused, why)
            self._told, self._refused = now, 0


class _CountedConnection(socket.socket):
    """A connection that is counted until it is closed."""

    gate: GatedSocket | None = None
    peer: str = ""

    def close(self) -> None:
        super().close()
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.left(self.peer)
