"""Merges captures of several interfaces into one, in the format of pcap (IETF draft-ietf-opsawg-pcap).

Packets are in the order in which they arrive here. A packet that passes several of the interfaces is written
once: as often as the interface that it passed most often has seen it.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import msgspec

from kvmcompose.hosts.errors import DriverError

#: Sizes of the headers of a file and of a packet, in bytes.
_HEADER, _RECORD = 24, 16
#: The longest packet that tcpdump(8) writes, in bytes: a host that announces a longer one fills memory.
_LONGEST = 262144
#: By magic number: the byte order, and how many units of time are a microsecond.
_FORMATS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1), b"\x4d\x3c\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1), b"\xa1\xb2\x3c\x4d": (">", 1000),
}  # fmt: skip
_OURS = struct.Struct("<IIII")
_ETHERNET = 1
#: After so many packets a copy of an earlier one is one of its own.
_REMEMBERED = 4096
#: So many chunks wait for a slow client; tcpdump(8) drops packets then.
_WAITING = 64


class Captured(msgspec.Struct, frozen=True, gc=False):
    """A packet as captured: its time, its first bytes, and its length on the wire in bytes."""

    seconds: int
    microseconds: int
    data: bytes
    length: int

    def record(self) -> bytes:
        """Return the packet as it is in a file."""
        return _OURS.pack(self.seconds, self.microseconds, len(self.data), self.length) + self.data


class PacketReader:
    """Reads the packets of one capture from its chunks."""

    def __init__(self) -> None:
        self._rest = b""
        self._order: str | None = None
        self._units = 1

    def read(self, chunk: bytes) -> Iterator[Captured]:
        """Yield the packets that a chunk completes. Raises DriverError for other formats."""
        data = self._rest + chunk
        at = 0
        if self._order is None:
            if len(data) < _HEADER:
                self._rest = data
                return
            self._order, self._units = _FORMATS.get(data[:4], ("", 0))
            if not self._order or struct.unpack_from(f"{self._order}I", data, 20)[0] != _ETHERNET:
                raise DriverError("tcpdump wrote an invalid capture")
            at = _HEADER
        header = struct.Struct(f"{self._order}IIII")
        while len(data) - at >= _RECORD:
            seconds, part, kept, length = header.unpack_from(data, at)
            if kept > _LONGEST:
                raise DriverError("tcpdump wrote an invalid capture")
            end = at + _RECORD + kept
            if end > len(data):
                break
            yield Captured(seconds, part // self._units, data[at + _RECORD : end], length)
            at = end
        self._rest = data[at:]


class Once:
    """Recognises packets that another interface has shown already."""

    def __init__(self) -> None:
        self._now: dict[bytes, Counter[int]] = {}
        self._before: dict[bytes, Counter[int]] = {}

    def is_new(self, interface: int, packet: Captured) -> bool:
        """Return whether this interface has seen the packet more often than every other one."""
        key = hashlib.blake2b(packet.data, digest_size=16, salt=packet.length.to_bytes(8, "little")).digest()
        seen = self._now.get(key)
        if seen is None:
            if len(self._now) >= _REMEMBERED:
                self._before, self._now = self._now, {}
            seen = self._now[key] = self._before.pop(key, Counter())
        most = max(seen.values(), default=0)
        seen[interface] += 1
        return seen[interface] > most


def file_header(snaplen: int) -> bytes:
    """Return the header of a file with packets of Ethernet, and times in microseconds."""
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, snaplen, _ETHERNET)


async def merged(
    captures: Sequence[AsyncGenerator[bytes]], snaplen: int, count: int | None
) -> AsyncGenerator[bytes]:
    """Yield the header once all captures have begun, then packets, until ``count`` or until all have ended.

    Raises DriverError as soon as one of the captures does.
    """
    queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(_WAITING)

    async def first(capture: AsyncGenerator[bytes]) -> bytes:
        return await anext(capture, b"")

    async def follow(number: int, capture: AsyncGenerator[bytes]) -> None:
        async for chunk in capture:
            await queue.put((number, chunk))

    begun = [asyncio.create_task(first(each)) for each in captures]
    running: set[asyncio.Task[None]] = set()
    try:
        heads = await asyncio.gather(*begun)
        running = {asyncio.create_task(follow(*each)) for each in enumerate(captures)}
        yield file_header(snaplen)
        readers, once, left = [PacketReader() for _ in captures], Once(), count
        chunks = [*enumerate(heads)]
        while chunks:
            found = [
                packet.record()
                for number, chunk in chunks
                for packet in readers[number].read(chunk)
                if once.is_new(number, packet)
            ][:left]
            if found:
                yield b"".join(found)
            if left is not None:
                left -= len(found)
                if not left:
                    return
            chunks = await _next(queue, running)
    finally:
        tasks: list[asyncio.Task[Any]] = [*begun, *running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(capture.aclose() for capture in captures), return_exceptions=True)


async def _next(
    queue: asyncio.Queue[tuple[int, bytes]], running: set[asyncio.Task[None]]
) -> list[tuple[int, bytes]]:
    """Return the next chunk; none once all captures have ended. Raises what one of them raised."""
    while True:
        for task in [each for each in running if each.done()]:
            running.discard(task)
            task.result()
        if not queue.empty():
            return [queue.get_nowait()]
        if not running:
            return []
        waiting = asyncio.create_task(queue.get())
        try:
            await asyncio.wait({waiting, *running}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return [waiting.result()]
        finally:
            waiting.cancel()
