"""Streams bytes in a response, until the client disconnects or the server stops."""

from __future__ import annotations

import asyncio
import logging

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.byte_stream import BegunStream

#: As registered with IANA; of tar archives, as in the Docker Engine API.
PCAP, TAR = "application/vnd.tcpdump.pcap", "application/x-tar"
#: JSON documents, one on each line.
NDJSON = "application/x-ndjson"

log = logging.getLogger(__name__)


class ByteReply(StreamingResponse):
    """The response with a stream: aborted when the stream fails, completed when it ends."""

    def __init__(self, pieces: BegunStream, media_type: str, stopping: asyncio.Event) -> None:
        """``stopping`` is set when the server is about to end."""
        super().__init__(aiter(pieces), media_type=media_type)
        self._pieces = pieces
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends, the client disconnects, or the server stops."""
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
            await self._pieces.close()
        if isinstance(ended, KvmComposeError):
            log.warning("the answer to %s was aborted: %s", scope["path"], ended.message)
        elif isinstance(ended, Exception):
            raise ended
