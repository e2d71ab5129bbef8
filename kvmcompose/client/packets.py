"""A capture as it comes from the server, and what of it makes a whole file."""

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

#: Until the capture has begun.
_BEGIN_SECONDS = 60.0
#: A server's machine that is gone is noticed after a minute without packets (tcp(7)).
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_CHUNK = 1 << 16
_OK = 200
#: Bytes of what a file and a packet begin with.
_HEADER, _RECORD = 24, 16
#: The order of bytes by the file's first ones: times in microseconds or nanoseconds.
_ORDERS = {
    b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">",
}  # fmt: skip


class PacketStream:
    """A capture that has begun: an iterator of chunks, a context manager that ends it."""

    def __init__(self, address: Address, connection: http.client.HTTPConnection) -> None:
        self._address = address
        self._connection = connection
        self._socket: socket.socket = connection.sock
        self._response = connection.getresponse()
        #: Whether it was ended from here.
        self.stopped = False

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Have the server end the capture."""
        self.stop()
        self._response.close()
        self._connection.close()

    def begun(self) -> None:
        """Raises ServerError for a capture that the server did not begin."""
        if self._response.status != _OK:
            raise error_of(self._response.status, self._response.read(), str(self._address))
        self._socket.settimeout(None)

    def stop(self) -> None:
        """End it: whoever waits for the next chunk gets none. May be called by a signal handler."""
        self.stopped = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[bytes]:
        """Chunks, as they come, until the capture ends or is stopped. Raises ServerError if it breaks off."""
        while not self.stopped:
            try:
                chunk = self._response.read1(_CHUNK)
            except (OSError, ValueError, http.client.HTTPException) as error:
                if self.stopped:
                    return
                raise ServerError(
                    f"the capture has broken off: the server on {self._address} has ended it",
                    hint="its log says why; is the testbed still up? kvm-compose status",
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
    """Ask for a capture. Raises ServerError when there is none, OSError when there is nobody to ask."""
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
        raise ConnectionError(f"the answer is none ({type(error).__name__})") from error
    except BaseException:
        connection.close()
        raise
    return stream


class Cutter:
    """Cuts a stream of pcap (IETF draft-ietf-opsawg-pcap) at the ends of packets, and counts them."""

    def __init__(self) -> None:
        self.packets = 0
        self._rest = b""
        self._length: struct.Struct | None = None

    def whole(self, chunk: bytes) -> bytes:
        """What is complete, up to the end of this chunk. Raises ServerError for what is no pcap."""
        data = self._rest + chunk
        at = 0
        if self._length is None:
            if len(data) < _HEADER:
                self._rest = data
                return b""
            order = _ORDERS.get(data[:4])
            if order is None:
                raise ServerError("the server sent something else than packets")
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
