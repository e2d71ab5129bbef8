"""Streams of bytes from and to the server: captures, and files of guests."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from kvmcompose.client.address import Address
from kvmcompose.client.errors import ServerError, error_of

#: How long a stream may take to start, in seconds.
_BEGIN_SECONDS = 60.0
#: A server's machine that is down is detected after a minute without bytes (tcp(7)).
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_CHUNK = 1 << 16
_OK, _MULTIPLE_CHOICES = 200, 300


class ByteStream:
    """A stream that has begun: an iterator of chunks, and a context manager that ends it."""

    def __init__(self, address: Address, connection: http.client.HTTPConnection, what: str) -> None:
        """``what`` it is, in messages: "the capture"."""
        self._address = address
        self._connection = connection
        self._what = what
        self._socket: socket.socket = connection.sock
        self._response = connection.getresponse()
        #: Whether the client ended it.
        self.stopped = False

    def __enter__(self) -> Self:
        """Return the running stream."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End the stream."""
        self.stop()
        self._response.close()
        self._connection.close()

    def begun(self) -> None:
        """Raise ServerError if the server did not start it."""
        if self._response.status != _OK:
            raise error_of(self._response.status, self._response.read(), str(self._address))
        self._socket.settimeout(None)

    def stop(self) -> None:
        """End the stream, and the iterator with it. May be called by a signal handler."""
        self.stopped = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks until the stream ends or is stopped. Raises ServerError if it is aborted."""
        while not self.stopped:
            try:
                chunk = self._response.read1(_CHUNK)
            except (OSError, ValueError, http.client.HTTPException) as error:
                if self.stopped:
                    return
                raise ServerError(
                    f"the server on {self._address} aborted {self._what}",
                    hint="see its log; is the testbed still up? kvm-compose status",
                ) from error
            if not chunk:
                return
            yield chunk


def open_stream(
    address: Address,
    target: str,
    headers: dict[str, str],
    *,
    ca_file: str | None,
    revive: Callable[[], None] | None,
    what: str,
) -> ByteStream:
    """Start to receive. Raises ServerError when the server refuses, OSError when it cannot be reached."""
    connection = _connect(address, ca_file, revive)
    try:
        connection.request("GET", target, headers=headers)
        stream = ByteStream(address, connection, what)
        stream.begun()
    except http.client.HTTPException as error:
        connection.close()
        raise ConnectionError(f"invalid response ({type(error).__name__})") from error
    except BaseException:
        connection.close()
        raise
    return stream


def send_stream(
    address: Address,
    target: str,
    headers: dict[str, str],
    body: Iterable[bytes],
    *,
    ca_file: str | None,
    revive: Callable[[], None] | None,
) -> None:
    """Send a body of any length by PUT. Raises ServerError, OSError, and what ``body`` raises."""
    connection = _connect(address, ca_file, revive)
    try:
        connection.sock.settimeout(None)  # the server's limit applies
        # a server that refuses answers before it has read everything, and closes then
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("PUT", target, body=body, headers=headers, encode_chunked=True)
        response = connection.getresponse()
        if not _OK <= response.status < _MULTIPLE_CHOICES:
            raise error_of(response.status, response.read(), str(address))
    except http.client.HTTPException as error:
        raise ConnectionError(f"invalid response ({type(error).__name__})") from error
    finally:
        connection.close()


def _connect(
    address: Address, ca_file: str | None, revive: Callable[[], None] | None
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(address.host)
    try:
        connection.sock = address.connect(ca_file)
    except (ConnectionRefusedError, FileNotFoundError):
        if revive is None:
            raise
        revive()
        connection.sock = address.connect(ca_file)
    connection.sock.settimeout(_BEGIN_SECONDS)
    if address.socket is None:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in _KEEP_ALIVE:
            connection.sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
    return connection
