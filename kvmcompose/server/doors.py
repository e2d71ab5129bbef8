"""Where a server listens: a Unix socket and, if it is configured or a browser needs it, TCP."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import msgspec
from starlette.types import ASGIApp

from kvmcompose.client.address import Address
from kvmcompose.core.errors import RefusedError
from kvmcompose.effects.server_places import token_path
from kvmcompose.server.api.authentication import AccessPolicy
from kvmcompose.server.listen import Listener
from kvmcompose.server.settings import DEFAULT_PORT, ServerSettings, is_loopback, read_token
from kvmcompose.server.sockets import bound_port, tcp_socket, unix_socket

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = frozenset({"localhost", _LOOPBACK, "::1"})
#: Addresses that stand for all of this machine, and the one by which itself reaches them.
_WILDCARDS = {"0.0.0.0": _LOOPBACK, "::": "::1"}  # noqa: S104 (it is compared)


class Doors:
    """The listeners of a server. Leaving the block closes their sockets."""

    def __init__(
        self,
        settings: ServerSettings,
        failed: Callable[[], None],
        guarded: Callable[[AccessPolicy], ASGIApp],
    ) -> None:
        """``failed`` is called when a listener ends, ``guarded`` returns the application for one."""
        self._settings = settings
        self._failed = failed
        self._guarded = guarded
        self._sockets = ExitStack()
        self._listeners: list[Listener] = []
        self._serving: list[asyncio.Task[None]] = []
        self._tcp: Address | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sockets.close()

    def open(self) -> None:
        """Listen where the settings say. Raises RefusedError, KvmComposeError."""
        settings = self._settings
        unix = self._sockets.enter_context(unix_socket(settings))
        self._sockets.callback(settings.socket.unlink, missing_ok=True)
        if settings.host is not None:
            self._tcp = self._open_tcp(settings.host, settings.port, tls=settings.tls)
        self._serve(unix, AccessPolicy())

    def page_address(self) -> Address:
        """Return where browsers of this machine reach the server.

        Without a TCP listener one is opened that only this machine reaches, with the same rules as one of the
        settings: who connects needs a token, or a session. Raises RefusedError, KvmComposeError.
        """
        if self._tcp is None:
            try:
                self._tcp = self._open_tcp(_LOOPBACK, DEFAULT_PORT)
            except RefusedError:  # another program has it
                self._tcp = self._open_tcp(_LOOPBACK, 0)
        host = self._tcp.host
        if host in _WILDCARDS:
            # a certificate has names, not the address of the loopback interface
            host = socket.gethostname() if self._tcp.tls else _WILDCARDS[host]
        return msgspec.structs.replace(self._tcp, host=host)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(each.connections for each in self._listeners)

    async def close(self) -> None:
        """Answer the requests that have begun, and end."""
        for listener in self._listeners:
            listener.should_exit = True
        await asyncio.gather(*self._serving)

    def _open_tcp(self, host: str, port: int, *, tls: bool = False) -> Address:
        token = read_token(self._settings.token_file or token_path(self._settings.state_dir))
        listening = self._sockets.enter_context(tcp_socket(host, port))
        hosts = _LOOPBACK_NAMES | {host} if is_loopback(host) else None
        self._serve(listening, AccessPolicy(token=token, hosts=hosts), tls=tls)
        address = Address(host=host, port=bound_port(listening), tls=tls)
        log.info("listening on %s", address)
        return address

    def _serve(self, listening: socket.socket, policy: AccessPolicy, *, tls: bool = False) -> None:
        listener = Listener(self._guarded(policy), self._settings, tls=tls)
        self._listeners.append(listener)
        task = asyncio.create_task(listener.serve([listening]))
        task.add_done_callback(lambda _: self._failed())  # one that ends early has failed
        self._serving.append(task)
