"""Receives a capture from the server, and cuts the stream at the ends of packets."""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from kvmcompose.client.address import Address
from kvmcompose.client.errors import ServerError, error_of

#: How long a capture may take to start, in seconds.
_BEGIN_SECONDS = 60.0
#: A server's machine that is down is detected after a minute without packets (tcp(7)).
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_CHUNK = 1 << 16
_OK = 200
#: Sizes of the headers of a file and of a packet, in bytes.
_HEADER, _RECORD = 24, 16
#: Byte order by magic number, for times in microseconds and in nanoseconds.
_ORDERS = {
    b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">",
}  # fmt: skip


class PacketStream:
    """A running capture: an iterator of chunks, and a context manager that ends it."""

    def __init__(self, address: Address, connection: http.client.HTTPConnection) -> None:
        self._address = address
        self._connection = connection
        self._socket: socket.socket = connection.sock
        self._response = connection.getresponse()
        #: Whether the client ended it.
        self.stopped = False

    def __enter__(self) -> Self:
        """Return the running capture."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End the capture."""
        self.stop()
        self._response.close()
        self._connection.close()

    def begun(self) -> None:
        """Raise ServerError if the server did not start the capture."""
        if self._response.status != _OK:
            raise error_of(self._response.status, self._response.read(), str(self._address))
        self._socket.settimeout(None)

    def stop(self) -> None:
        """End the capture, and the iterator with it. May be called by a signal handler."""
        self.stopped = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks until the capture ends or is stopped. Raises ServerError if it is aborted."""
        while not self.stopped:
            try:
                chunk = self._response.read1(_CHUNK)
            except (OSError, ValueError, http.client.HTTPException) as error:
                if self.stopped:
                    return
                raise ServerError(
                    f"the server on {self._address} aborted the capture",
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
) -> PacketStream:
    """Start a capture. Raises ServerError when the server refuses, OSError when it cannot be reached."""
    connection = http.client.HTTPConnection(address.host)
    try:
        connection.sock = address.connect(ca_file)
    except (ConnectionRefusedError, FileNotFoundError):
        if revive is None:
            raise
        revive()
        connection.sock = address.connect(ca_file)
    try:
        connection.sock.settimeout(_BEGIN_SECONDS)
        if address.socket is None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, seconds in _KEEP_ALIVE:
                connection.sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
        connection.request("GET", target, headers=headers)
        stream = PacketStream(address, connection)
        stream.begun()
    except http.client.HTTPException as error:
        connection.close()
        raise ConnectionError(f"invalid response ({type(error).__name__})") from error
    except BaseException:
        connection.close()
        raise
    return stream


class Cutter:
    """Cuts a stream in pcap format (IETF draft-ietf-opsawg-pcap) at the ends of packets, and counts them."""

    def __init__(self) -> None:
        self.packets = 0
        self._rest = b""
        self._length: struct.Struct | None = None

    def whole(self, chunk: bytes) -> bytes:
        """Return the complete packets up to the end of this chunk. Raises ServerError for other formats."""
        data = self._rest + chunk
        at = 0
        if self._length is None:
            if len(data) < _HEADER:
                self._rest = data
                return b""
            order = _ORDERS.get(data[:4])
            if order is None:
                raise ServerError("the server sent an invalid capture")
            self._length = struct.Struct(f"{order}I")
            at = _HEADER
        while len(data) - at >= _RECORD:
            end = at + _RECORD + self._length.unpack_from(data, at + 8)[0]
            if end > len(data):
                break
            at = end
            self.packets += 1
        self._rest = data[at:]
        return data[:at]
