"""Reads the events of a deployment for one client, from a number on, for as long as it listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack

import msgspec

from kvmcompose.core.deployment_event import EventsMissed, MissedReason
from kvmcompose.server.actions import Actions
from kvmcompose.server.api.event_parts import EventParts
from kvmcompose.server.api.streaming import GoingAwayError, text_frame
from kvmcompose.server.clock import now
from kvmcompose.server.guest_watch import GuestWatch, GuestWatches
from kvmcompose.server.store import Store


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for.

    Events after number ``after``; None: the current state, and events from now on. ``action``: only events of
    this action, until it ends. ``status``: also the live status, every few seconds.
    """

    after: int | None = None
    action: str | None = None
    status: bool = False


class EventReader:
    """Yields events as WebSocket frames. All are read from the database, a bounded part at a time: a slow
    reader slows nothing down, and takes no more memory than a fast one. Readers at the same place share what
    is read.
    """

    def __init__(
        self,
        store: Store,
        parts: EventParts,
        actions: Actions,
        watches: GuestWatches,
        stopping: asyncio.Event,
        name: str,
        wanted: Wanted,
    ) -> None:
        """``stopping`` is set when the server stops; whoever sets it wakes the readers."""
        self._store = store
        self._parts = parts
        self._actions = actions
        self._watches = watches
        self._stopping = stopping
        self._name = name
        self._wanted = wanted
        self._channel = store.channel(name)
        self._after = 0
        self._known_dropped = 0

    async def messages(self) -> AsyncGenerator[bytes]:
        """Yield until the end of the action, or of the deployment. Raises GoingAwayError."""
        with ExitStack() as stack:
            stack.enter_context(self._channel.reading())
            watch: GuestWatch | None = None
            if self._wanted.action is None:
                listening = self._watches.listen(self._name, figures=self._wanted.status)
                watch = stack.enter_context(listening)
            looks = watch.looks if watch is not None else 0
            for message in self._beginning():
                yield message
            while True:
                news = self._channel.news  # before anything is read: nothing is missed in between
                ended = self._has_ended()
                if self._channel.closed:
                    return
                part = self._parts.after(self._name, self._after, self._wanted.action)
                for message in self._missed(part.dropped):
                    yield message
                if part.frames:
                    yield part.frames
                    self._after = part.up_to
                    continue
                if watch is not None and self._wanted.status and watch.looks > looks:
                    looks = watch.looks
                    yield self._parts.report(watch, self._after)
                    continue
                if ended:
                    return
                await news.wait()

    def _has_ended(self) -> bool:
        """Return whether no events can follow. Raises GoingAwayError if that is because the server stops."""
        if self._wanted.action is not None:
            return not self._actions.is_running(self._wanted.action)
        if self._stopping.is_set() and self._actions.running(self._name) is None:
            raise GoingAwayError
        return False

    def _beginning(self) -> Iterator[bytes]:
        last = self._store.last_number(self._name)
        if self._wanted.after is None:
            self._after = self._known_dropped = last
            yield from self._current()
        elif self._wanted.after > last:
            self._after = self._known_dropped = last
            yield self._gap(MissedReason.AHEAD, last)
            yield from self._current()
        else:
            self._after = self._wanted.after

    def _missed(self, dropped: int) -> Iterator[bytes]:
        """Report that events after the reader's number are no longer kept, once for each that is dropped."""
        if max(self._after, self._known_dropped) < dropped:
            self._known_dropped = dropped
            yield self._gap(MissedReason.DROPPED, dropped)
            yield from self._current()

    def _gap(self, reason: MissedReason, up_to: int) -> bytes:
        missed = EventsMissed(number=self._after, time=now(), reason=reason, up_to=up_to)
        return text_frame(msgspec.json.encode(missed))

    def _current(self) -> Iterator[bytes]:
        deployment = self._store.deployment(self._name)
        if deployment is not None:
            running = self._actions.all_running(self._name)
            if self._wanted.action is not None:
                running = [action for action in running if action.uuid == self._wanted.action]
            yield text_frame(msgspec.json.encode(self._store.current(deployment, running, self._after)))
