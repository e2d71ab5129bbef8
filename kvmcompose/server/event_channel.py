"""Wakes the readers of a deployment's events."""

from __future__ import annotations

import asyncio


class Channel:
    """Wakes the readers of a deployment's events, which then read them from the database."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._changes = asyncio.Event()
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

    def wake(self, *, change: bool = False) -> None:
        """Report something new; with ``change``, something that may have changed guests."""
        self._news.set()
        self._news = asyncio.Event()
        if change:
            self._changes.set()
            self._changes = asyncio.Event()
