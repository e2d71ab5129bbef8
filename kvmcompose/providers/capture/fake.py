"""Packets of a simulated host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from kvmcompose.core.deployment import Capture
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.providers.capture.fake_packets import file_header, record

#: Seconds between two packets of fake guests.
_PING_SECONDS = 0.01


class FakeCaptures:
    """See ``Captures``. Guests ping each other while any is on; filters have no effect."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def check_filter(self, expression: str) -> str | None:
        await self._host.call("check_filter", expression)
        return None if expression.count("(") == expression.count(")") else "syntax error"

    async def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        await self._host.call("capture", name)
        async for chunk in self._pings(wanted):
            yield chunk

    async def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        await self._host.call("mirror", name)
        port = f"cap-{id(wanted) & 0xFFFF:x}"
        ports = self._host.world.bridges[project][name]
        ports.append(port)
        try:
            async for chunk in self._pings(wanted):
                yield chunk
        finally:
            ports.remove(port)

    async def _pings(self, wanted: Capture) -> AsyncGenerator[bytes]:
        yield file_header(wanted.snaplen)
        number = 0
        while number != wanted.count and any(each.started for each in self._host.world.domains.values()):
            yield record(number, wanted.snaplen, time.time())
            await asyncio.sleep(_PING_SECONDS)
            number += 1
