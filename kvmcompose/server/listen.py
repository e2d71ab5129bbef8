"""The lock of a state folder, and uvicorn as this server runs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from kvmcompose.core.deployment import ProblemDetails
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.locking import lock
from kvmcompose.effects.server_places import lock_path
from kvmcompose.server import limits
from kvmcompose.server.people import peer_of
from kvmcompose.server.rare_lines import RareLines
from kvmcompose.server.settings import ServerSettings

#: How long an embedded server waits for the one before it to end, in seconds.
_HANDOVER_SECONDS = 3.0
_POLL_SECONDS = 0.05
#: What uvicorn says of requests and WebSockets: anybody who can connect causes lines, some with a traceback.
_RARE_LINES = RareLines()


class HeldError(RefusedError):
    """Another server uses the state folder."""


@contextlib.contextmanager
def held(settings: ServerSettings) -> Iterator[None]:
    """Be the only server of a state folder while the block runs. Raises HeldError.

    The kernel releases the lock when its holder dies, however it dies. The file says who holds it.
    """
    path = lock_path(settings.state_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KvmComposeError(
            f"cannot use the state folder {settings.state_dir}: {error.strerror}",
            hint="use another one with --state-dir or KVM_COMPOSE_STATE_DIR",
        ) from error
    try:
        if not _locked(handle, path, seconds=_HANDOVER_SECONDS if settings.embedded else 0):
            said = os.pread(handle, 4096, 0).decode(errors="replace").split()
            holder, place = (said[0], said[1]) if len(said) > 1 else ("unknown", "unknown")
            raise HeldError(
                f"another server uses {settings.state_dir}: process {holder}, on {place}",
                hint="each server needs a state folder of its own; see --state-dir",
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\nunix:{settings.socket}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _locked(handle: int, path: Path, *, seconds: float) -> bool:
    """Return whether the lock could be taken within ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            lock(handle, path, wait=False)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, with three additions.

    Requests and WebSockets find the process at the other end of a Unix socket in their state. The head of a
    request has to come in time. What is not HTTP is answered with problem details.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {"peer": peer_of(transport.get_extra_info("socket"))}
        self._time_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _time_head(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self._late = self._late or self.loop.call_later(limits.HEAD_SECONDS, self.transport.abort)
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # no answer has begun
            body = msgspec.json.encode(ProblemDetails(title="Bad Request", status=400, detail=msg))
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
            )
        self.transport.close()


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, which also send ``frames`` as they are: one encoding serves many clients."""

    async def send(self, message: Any) -> None:
        if not self.handshake_complete or "frames" not in message:
            await super().send(message)
            return
        await self.writable.wait()
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            raise ClientDisconnected
        self.transport.write(message["frames"])


class Listener(uvicorn.Server):
    """uvicorn on one socket. Whoever starts it handles signals."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, *, tls: bool) -> None:
        """``tls``: use the certificate of the settings. Raises RefusedError when it cannot be used."""
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws=_WebSocketProtocol,
            lifespan="off",
            log_config=None,
            access_log=settings.access_log,
            server_header=False,
            proxy_headers=False,
            backlog=limits.BACKLOG,
            h11_max_incomplete_event_size=limits.HEADER_BYTES,
            timeout_keep_alive=limits.KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=limits.GRACE_SECONDS,
            ws_max_size=limits.MESSAGE_BYTES,
            ws_ping_interval=limits.PING_SECONDS,
            ws_ping_timeout=limits.PING_SECONDS,
            ws_per_message_deflate=False,
            ssl_certfile=settings.tls_cert if tls else None,
            ssl_keyfile=settings.tls_key if tls else None,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise RefusedError(f"the TLS certificate or its key cannot be used: {error}") from error
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_RARE_LINES)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self.server_state.connections)
