"""Cuts a capture from the server at the ends of packets."""

from __future__ import annotations

import struct

from kvmcompose.client.errors import ServerError

#: Sizes of the headers of a file and of a packet, in bytes.
_HEADER, _RECORD = 24, 16
#: Byte order by magic number, for times in microseconds and in nanoseconds.
_ORDERS = {
    b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">",
}  # fmt: skip


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
