"""The sockets that a server listens on, with limits on the connections of strangers.

A connection over a limit is closed at once, before any of it is read. The server's own user and root are not
counted on a Unix socket: they get in whatever others do.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from kvmcompose.core.errors import RefusedError
from kvmcompose.effects.credentials import peer_credentials
from kvmcompose.server import limits
from kvmcompose.server.settings import ServerSettings, group_id

log = logging.getLogger(__name__)

#: Seconds between two log lines about refused connections.
_LOG_SECONDS = 60.0


class LimitedSocket(socket.socket):
    """A listening socket whose ``accept`` refuses connections over the limits."""

    def __init__(self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> None:
        super().__init__(family, kind, protocol)
        self._open: dict[str, int] = {}
        self._refused = 0
        self._logged: float | None = None

    def accept(self) -> tuple[socket.socket, object]:
        """Return the next connection and its address.

        Raises ConnectionAbortedError for one that was refused; asyncio then goes on with other work and
        comes back for the next.
        """
        handle, address = self._accept()  # type: ignore[attr-defined] # as socket.accept does
        connection = _CountedConnection(self.family, self.type, self.proto, fileno=handle)
        peer = self._peer(connection, address)
        if peer is None:
            return connection, address
        if sum(self._open.values()) >= limits.PER_LISTENER or self._open.get(peer, 0) >= limits.PER_PEER:
            connection.close()
            self._log(peer)
            raise ConnectionAbortedError
        self._open[peer] = self._open.get(peer, 0) + 1
        connection.listener, connection.peer = self, peer
        return connection, address

    def closed(self, peer: str) -> None:
        """Take note that a connection of ``peer`` was closed."""
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]

    def _peer(self, connection: socket.socket, address: object) -> str | None:
        """Return whose connection it is; None for the users who are not counted."""
        if self.family != socket.AF_UNIX:
            return str(address[0]) if isinstance(address, tuple) else "unknown"
        _pid, uid = peer_credentials(connection)
        return None if uid in (0, os.geteuid()) else f"uid {uid}"

    def _log(self, peer: str) -> None:
        self._refused += 1
        now = time.monotonic()
        if self._logged is None or now - self._logged >= _LOG_SECONDS:
            log.warning(
                "connections refused: %d since the last such line, the last of %s", self._refused, peer
            )
            self._logged, self._refused = now, 0


class _CountedConnection(socket.socket):
    """A connection that is counted until it is closed."""

    listener: LimitedSocket | None = None
    peer: str = ""

    def close(self) -> None:
        super().close()
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.closed(self.peer)


def unix_socket(settings: ServerSettings) -> socket.socket:
    """Listen on the Unix socket of the settings, in place of one that a killed server left.

    To be called with the lock held. Only the owner may connect, and the group if one is named. Raises
    RefusedError.
    """
    path = settings.socket
    group = group_id(settings.socket_group) if settings.socket_group is not None else None
    listener = LimitedSocket(socket.AF_UNIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if group is None else 0o755)
        if group is not None:
            _check_passable(path.parent, group, str(settings.socket_group))
        if path.is_socket():
            _remove_stale(path)
        mask = os.umask(0o177)  # nobody else may connect, from the first moment on
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(limits.BACKLOG)
    except OSError as error:
        listener.close()
        raise RefusedError(f"cannot listen on {path}: {error.strerror}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _check_passable(folder: Path, group: int, name: str) -> None:
    found = folder.stat()
    if not (found.st_mode & stat.S_IXOTH or (found.st_gid == group and found.st_mode & stat.S_IXGRP)):
        raise RefusedError(
            f"the group {name} cannot reach the socket: it may not enter {folder}",
            hint=f"chgrp {name} {folder} && chmod g+x {folder}, or use another folder with --socket",
        )


def _remove_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise RefusedError(f"address already in use: {path}", hint="use another path with --socket")


def tcp_socket(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes any that is free. Raises RefusedError."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = LimitedSocket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(limits.BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise RefusedError(
            f"cannot listen on {host}, port {port}: {error.strerror}", hint="use another port with --port"
        ) from error
    return listener


def bound_port(listener: socket.socket) -> int:
    """Return the port that a socket listens on."""
    address: Any = listener.getsockname()
    return int(address[1])
