"""Streams captured packets in a response, until the client disconnects or the server stops."""

from __future__ import annotations

import asyncio
import logging

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.orchestrator.captures import Packets

#: As registered with IANA.
PCAP = "application/vnd.tcpdump.pcap"

log = logging.getLogger(__name__)


class PacketReply(StreamingResponse):
    """The response of a capture: aborted when the capture fails, completed when it ends."""

    media_type = PCAP

    def __init__(self, packets: Packets, stopping: asyncio.Event) -> None:
        """``stopping`` is set when the server is about to end."""
        super().__init__(aiter(packets))
        self._packets = packets
        self._stopping = stopping

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the capture ends, the client disconnects, or the server stops."""
        sending = asyncio.create_task(self.stream_response(send))
        others = [
            asyncio.create_task(self.listen_for_disconnect(receive)),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            await asyncio.wait((sending, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, *others):
                task.cancel()
            ended, *_ = await asyncio.gather(sending, *others, return_exceptions=True)
            await self._packets.close()
        if isinstance(ended, KvmComposeError):
            log.warning("a capture was aborted: %s", ended.message)
        elif isinstance(ended, Exception):
            raise ended
