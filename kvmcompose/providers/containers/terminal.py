"""A command in a running container that has a terminal.

Closing the connection to an engine leaves the command running, as one without a terminal. It is ended as by
a terminal that goes away (SIGHUP): a shell passes that on to what it has started; ``nohup`` protects from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

from docker import APIClient
from docker.errors import APIError

from kvmcompose.core.access import TerminalSize
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.execution import UPGRADE, Execution
from kvmcompose.providers.containers.streaming import EngineStream

log = logging.getLogger(__name__)

#: The body of ``POST /exec/ID/start``.
_REQUEST = b'{"Detach": false, "Tty": true}'
#: How often an engine is asked to change a size that it refuses to, as the command does not run yet, and the
#: time between, in seconds.
_ATTEMPTS, _PAUSE_SECONDS = 20, 0.1


class EngineTerminal(Execution):
    """See ``Terminal``."""

    signal = "HUP"
    _stream: EngineStream

    @asynccontextmanager
    async def opened(
        self, argv: Sequence[str], *, environment: Mapping[str, str], size: TerminalSize
    ) -> AsyncIterator[Self]:
        """Run a command until the block ends. Raises DriverError."""

        def create(client: APIClient) -> str:
            made = client.exec_create(
                self._container, list(argv), stdin=True, tty=True, environment=dict(environment)
            )
            return str(made["Id"])

        self._id = await self._engine.call(self._doing, create)
        self._has_ended = False
        self._wanted = size
        self._resizing: asyncio.Task[None] | None = None
        try:
            async with self._engine.stream(
                self._doing, "POST", ("exec", self._id, "start"), headers=UPGRADE, body=_REQUEST
            ) as self._stream:
                self.resize(size)
                yield self
        finally:
            if self._resizing is not None:
                self._resizing.cancel()
                await asyncio.gather(self._resizing, return_exceptions=True)
            if not self._has_ended:
                await self._end()

    async def read(self) -> AsyncGenerator[bytes]:
        async for piece in self._stream.read():
            yield piece

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    def resize(self, size: TerminalSize) -> None:
        self._wanted = size
        if self._resizing is None or self._resizing.done():
            self._resizing = asyncio.create_task(self._resize())

    async def status(self) -> int:
        found = await self._status()
        self._has_ended = True
        return found

    async def _resize(self) -> None:
        """Give the terminal the size that is wanted, also if that changes meanwhile."""
        size: TerminalSize | None = None
        with contextlib.suppress(DriverError):  # the command has ended, or its container
            while size != self._wanted:
                size = self._wanted
                for _ in range(_ATTEMPTS):
                    if await self._is_resized(size):
                        break
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def _is_resized(self, size: TerminalSize) -> bool:
        def resize(client: APIClient) -> bool:
            try:
                client.exec_resize(self._id, height=size.rows, width=size.columns)
            except APIError as error:
                log.debug("cannot resize a terminal: %s", error)
                return False
            return True

        return await self._engine.call(self._doing, resize)
