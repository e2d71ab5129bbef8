"""Where a server listens: its lock, its sockets, and uvicorn behind each of them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import msgspec
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from kvmcompose.core.deployment import ProblemDetails
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.server_places import lock_path
from kvmcompose.server.gate import GatedSocket
from kvmcompose.server.people import peer_of
from kvmcompose.server.settings import ServerSettings, group_id

_HEAD_BYTES = 16 * 1024
#: How long the head of a request may take, in seconds.
_HEAD_SECONDS = 15
_KEEP_ALIVE_SECONDS = 5
_GRACE_SECONDS = 5
_MESSAGE_BYTES = 4096
_PING_SECONDS = 20
_BACKLOG = 128
#: An embedded server that is about to end is waited for that long by the next one.
_HANDOVER_SECONDS = 3.0
_LOOK_SECONDS = 0.05


class HeldError(RefusedError):
    """Another server has the state folder."""


@contextlib.contextmanager
def held(settings: ServerSettings) -> Iterator[None]:
    """Be the one server of a state folder while the block runs. Raises HeldError.

    The kernel gives the lock back when its holder dies, however it dies. The file says who holds it.
    """
    path = lock_path(settings.state_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KvmComposeError(
            f"cannot use the state folder {settings.state_dir}: {error.strerror}",
            hint="name another with --state-dir or KVM_COMPOSE_STATE_DIR",
        ) from error
    try:
        if not _locked(handle, seconds=_HANDOVER_SECONDS if settings.embedded else 0):
            said = os.pread(handle, 4096, 0).decode(errors="replace").split()
            holder, place = (said[0], said[1]) if len(said) > 1 else ("unknown", "unknown")
            raise HeldError(
                f"a server runs on {settings.state_dir} already: process {holder}, on {place}",
                hint="one server has one state folder; --state-dir names another",
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\nunix:{settings.socket}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _locked(handle: int, *, seconds: float) -> bool:
    """Whether the lock could be had, within so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        else:
            return True


def unix_socket(settings: ServerSettings) -> socket.socket:
    """Listen on the Unix socket, in place of one that a killed server left. To be called with the lock held.

    Only the owner may connect, and the group if one is named. Raises RefusedError.
    """
    path = settings.socket
    group = group_id(settings.socket_group) if settings.socket_group is not None else None
    listener = GatedSocket(socket.AF_UNIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if group is None else 0o755)
        if group is not None:
            _check_passable(path.parent, group, str(settings.socket_group))
        if path.is_socket():
            _remove_stale(path)
        mask = os.umask(0o177)  # from its first moment on nobody else may connect
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(_BACKLOG)
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
            f"the group {name} does not get to the socket: {folder} is closed to it",
            hint=f"chgrp {name} {folder} && chmod g+x {folder}, or name another place with --socket",
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
    raise RefusedError(f"somebody listens on {path} already", hint="--socket names another place")


def tcp_socket(host: str, port: int) -> socket.socket:
    """Listen on an address. Raises RefusedError."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = GatedSocket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise RefusedError(
            f"cannot listen on {host}, port {port}: {error.strerror}", hint="--port names another"
        ) from error
    return listener


def _with_peer(app: ASGIApp, transport: asyncio.BaseTransport) -> ASGIApp:
    """The application, which finds the process at the other end in its scope (``kvmcompose.peer``)."""
    peer = peer_of(transport.get_extra_info("socket"))

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        scope["kvmcompose.peer"] = peer
        await app(scope, receive, send)

    return call


class _WebSocket(WebSocketsSansIOProtocol):
    """A WebSocket as uvicorn speaks it, with the process at the other end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.app = _with_peer(self.app, transport)
        super().connection_made(transport)


class _Protocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, but a request's head has its time, and what is none gets a problem."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app = _with_peer(self.app, transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._await_head()
        else:
            self._had_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._had_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _had_head(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        body = msgspec.json.encode(ProblemDetails(title="Bad Request", status=400, detail=msg))
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # in the middle of an answer there is no other
            head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Listener(uvicorn.Server):
    """uvicorn on one socket. Signals are the business of who started it."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, *, tls: bool) -> None:
        """``tls``: with the certificate of the settings. Raises RefusedError for one that is none."""
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws=_WebSocket,
            lifespan="off",
            log_config=None,
            access_log=settings.access_log,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_HEAD_BYTES,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            ws_max_size=_MESSAGE_BYTES,
            ws_ping_interval=_PING_SECONDS,
            ws_ping_timeout=_PING_SECONDS,
            ws_per_message_deflate=False,
            ssl_certfile=settings.tls_cert if tls else None,
            ssl_keyfile=settings.tls_key if tls else None,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise RefusedError(f"the TLS certificate or its key cannot be used: {error}") from error
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them."""
        yield

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self.server_state.connections)


def bound_port(listener: socket.socket) -> int:
    """The port that was given, or taken for 0."""
    address: Any = listener.getsockname()
    return int(address[1])
