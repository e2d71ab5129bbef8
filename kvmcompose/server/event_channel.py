"""Wakes the readers of a deployment's events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds between two times that events wake the readers, for each reader, and at most. A reader takes about
#: a tenth of a millisecond each time: however many they are, they take a twentieth of the server's time.
READER_SECONDS, _LONGEST_SECONDS = 0.002, 0.5


class Channel:
    """Wakes the readers of a deployment's events, which then read them from the database."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._changes = asyncio.Event()
        self._readers = 0
        self._due = 0.0
        self._later: asyncio.TimerHandle | None = None
        #: Whether the deployment was removed.
        self.closed = False

    @property
    def news(self) -> asyncio.Event:
        """An event that is set as soon as there is something new. Get it before you read."""
        return self._news

    @property
    def changes(self) -> asyncio.Event:
        """An event that is set as soon as guests may have changed."""
        return self._changes

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a reader as long as the block runs: the more there are, the longer ``wake_soon`` waits."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    def wake(self, *, change: bool = False) -> None:
        """Report something new; with ``change``, something that may have changed guests."""
        self._report(change=change)
        self._wake_readers()

    def wake_soon(self, *, change: bool = False) -> None:
        """Do the same, but let readers sleep for a moment if they have been woken just now."""
        self._report(change=change)
        if self._later is not None or not self._readers:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._due:
            self._wake_readers()
        else:
            self._later = loop.call_at(self._due, self._wake_readers)

    def _report(self, *, change: bool) -> None:
        if change:
            self._changes.set()
            self._changes = asyncio.Event()

    def _wake_readers(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._news.set()
        self._news = asyncio.Event()
        if self._readers:
            pause = min(self._readers * READER_SECONDS, _LONGEST_SECONDS)
            self._due = asyncio.get_running_loop().time() + pause
