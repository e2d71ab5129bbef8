"""The standard input of a command in a guest: what its client sends, until the command takes it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from kvmcompose.core.commands import INPUT_WINDOW
from kvmcompose.core.errors import KvmComposeError, RefusedError

#: How long a client may take to connect after it has started the command, in seconds.
_CONNECT_SECONDS = 30.0


class InputLostError(KvmComposeError):
    """The input broke off before its end. The command must not take that for the end of a file."""


class WindowExceededError(KvmComposeError):
    """The client sent more than it may."""


class ActionInput:
    """A bounded buffer between the connection of one client, which feeds it, and the command."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._attached = asyncio.Event()
        self._news = asyncio.Event()
        self._complete = False
        self._lost: InputLostError | None = None
        #: How many bytes the command has taken.
        self.taken = 0
        #: Set when ``taken`` has grown, or nothing will be taken any more.
        self.progress = asyncio.Event()
        self.over = False

    def attach(self) -> None:
        """Be the client that sends the input. Raises RefusedError when there is one, or the command ended."""
        if self.over:
            raise RefusedError("the command has ended")
        if self._attached.is_set():
            raise RefusedError("another client sends the input of this command")
        self._attached.set()

    def feed(self, data: bytes) -> None:
        """Add input. Raises WindowExceededError above the window."""
        if self.over:
            return
        if self._size + len(data) > INPUT_WINDOW:
            raise WindowExceededError(f"more than {INPUT_WINDOW} bytes are on their way")
        if data:
            self._chunks.append(data)
            self._size += len(data)
            self._news.set()

    def complete(self) -> None:
        """Mark the end of the input."""
        self._complete = True
        self._news.set()

    def lose(self, why: str) -> None:
        """Mark that the rest will not arrive. No effect after the end."""
        if not self._complete and self._lost is None:
            self._lost = InputLostError(
                f"the input broke off: {why}", hint="the command was ended; run it again"
            )
            self._news.set()

    def end(self) -> None:
        """Mark that nothing more is taken: the action has ended."""
        self.over = True
        self._chunks.clear()
        self.progress.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the input as it is taken, until its end. Raises InputLostError."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._attached.wait()
        except TimeoutError:
            self.lose(f"no client sent it within {_CONNECT_SECONDS:g} s")
        while True:
            if self._lost is not None:
                raise self._lost
            if self._chunks:
                chunk = self._chunks.popleft()
                yield chunk
                self._size -= len(chunk)
                self.taken += len(chunk)
                self.progress.set()
            elif self._complete:
                return
            else:
                self._news.clear()
                await self._news.wait()
