"""A stream of bytes that has begun: what it could not begin with was raised before an answer was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator


class BegunStream:
    """Bytes in pieces, the first of which is there. To be closed."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces, as they come. Raises DriverError."""
        yield self._first
        async for piece in self._rest:
            yield piece
            await asyncio.sleep(0)  # where there is always more to read, others run, and its client can leave

    async def close(self) -> None:
        """End it, and remove what was made for it."""
        await self._rest.aclose()
