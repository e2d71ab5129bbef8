"""Watches the guests of a deployment while a client listens, and publishes what has changed.

All listeners share one watch. It looks at the hosts when an action has done something to a guest, when a
driver reports a change (``Source``), and every few seconds for those who want figures such as CPU time, or
where no driver reports changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

from kvmcompose.core.deployment import Deployment, GuestStatus, Phase, TestbedStatus
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import InstanceEvent
from kvmcompose.server.event_tables import REMOVED
from kvmcompose.server.store import Store

#: Seconds between two looks, between two that changes ask for, and between two while drivers report changes
#: (but of addresses they do not); more if a look takes long: looks take at most a share of the time, which is
#: smaller while an action, which reports itself what it does, has the testbed.
LOOK_SECONDS, _SOON_SECONDS, _RARELY_SECONDS = 2.0, 0.25, 30.0
_LOOKING_SHARE, _SHARE_BESIDE_ACTIONS = 0.25, 0.03
#: How many changes are published at a time, before other requests have their turn.
_AT_A_TIME = 100

log = logging.getLogger(__name__)


#: Yields what drivers report of a deployment's guests, until closed; fails where they report nothing.
Source = Callable[[Deployment], AsyncGenerator[InstanceEvent]]
Look = Callable[[Deployment], Awaitable[TestbedStatus]]


class GuestWatch:
    """The watch of one deployment. ``seen`` is the last status or error, ``looks`` how many there were."""

    def __init__(self, store: Store, name: str, look: Look, source: Source | None) -> None:
        self._store = store
        self._name = name
        self._look = look
        self._source = source
        self._channel = store.channel(name)
        self._reported = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._listening_since: str | None = None
        self.listeners = self.figures = 0
        self.seen: TestbedStatus | KvmComposeError | None = None
        self.looks = 0

    @property
    def closed(self) -> bool:
        """Whether the deployment was removed."""
        return self._channel.closed

    def start(self) -> None:
        """Begin to watch."""
        self._looking = asyncio.create_task(self._run(), name=f"watch {self._name}")

    def stop(self) -> None:
        """Watch no longer."""
        for task in (self._looking, self._listening):
            if task is not None:
                task.cancel()

    def hurry(self) -> None:
        """Look soon: a client wants figures."""
        self._reported.set()

    def _follow_hosts(self, deployment: Deployment) -> None:
        """Listen to the drivers, and again after each action: the testbed may have other hosts."""
        if self._source is None or deployment.state is Phase.RUNNING:
            return
        since = deployment.last_action_uuid or ""
        if since != self._listening_since:
            self._listening_since = since
            if self._listening is not None:
                self._listening.cancel()
            self._listening = asyncio.create_task(self._listen(self._source, deployment))

    async def _listen(self, source: Source, deployment: Deployment) -> None:
        """Take note of what drivers report. When this ends, the watch looks often by itself."""
        try:
            async with aclosing(source(deployment)) as events:
                async for _ in events:
                    self._reported.set()
        except KvmComposeError as error:
            log.info("%s: the hosts report no changes of guests: %s", self._name, error.message)
        except Exception:
            log.exception("%s: the hosts report no changes of guests", self._name)
        self._reported.set()

    async def _run(self) -> None:
        while not self._channel.closed:
            changes = self._channel.changes
            self._reported.clear()
            began = time.monotonic()
            await self._look_once()
            took = time.monotonic() - began
            await self._change(changes, max(self._pause(), took / _LOOKING_SHARE))
            # several changes are one look
            await asyncio.sleep(began + took + max(_SOON_SECONDS, took) - time.monotonic())
            while (  # noqa: ASYNC110 (changes come too often to look each time whether the action has ended)
                self._in_action() and time.monotonic() < began + took / _SHARE_BESIDE_ACTIONS
            ):
                await asyncio.sleep(_SOON_SECONDS)

    def _in_action(self) -> bool:
        deployment = self._store.deployment(self._name)
        return deployment is not None and deployment.state is Phase.RUNNING

    def _pause(self) -> float:
        """Return after how many seconds to look if nothing is reported."""
        reports = self._listening is not None and not self._listening.done()
        return LOOK_SECONDS if self.figures or not reports else _RARELY_SECONDS

    async def _change(self, changes: asyncio.Event, seconds: float) -> None:
        """Return when something may have changed, or after ``seconds``."""
        waiting = [asyncio.create_task(each.wait()) for each in (changes, self._reported)]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _look_once(self) -> None:
        deployment = self._store.deployment(self._name)
        if deployment is None:
            return
        self._follow_hosts(deployment)
        try:
            status = await self._look(deployment)
            await self._publish(status)
        except KvmComposeError as error:
            self.seen = error
        except Exception as error:  # the watch goes on; the client gets what a request for the status gets
            log.exception("%s: the status", self._name)
            self.seen = KvmComposeError(
                f"internal error ({type(error).__name__})", hint="please report it, with the server's log"
            )
        else:
            self.seen = status
        self.looks += 1
        self._channel.wake()

    async def _publish(self, status: TestbedStatus) -> None:
        """Publish what differs from what was published last."""
        known = self._store.guests(self._name)
        found = {guest.name: guest for guest in status.guests}
        changed = [guest for guest in status.guests if self._differs(guest)]
        gone = [each for name, each in known.items() if name not in found]
        for count, guest in enumerate(changed):
            if count and count % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            if self._channel.closed:
                return
            self._store.publish_guest(
                self._name,
                guest.name,
                guest.state,
                host=guest.host,
                address=guest.address,
                reason=_reason(guest),
            )
        for each in gone:
            self._store.publish_guest(self._name, each.guest, REMOVED, host=each.host)

    def _differs(self, guest: GuestStatus) -> bool:
        known = self._store.guests(self._name).get(guest.name)
        if known is None:
            return guest.state != "absent"
        before = (known.state, known.reason, known.host, known.address)
        return before != (guest.state, _reason(guest), guest.host, guest.address)


def _reason(guest: GuestStatus) -> str | None:
    """Return why a guest is in its state, or that it runs and its healthcheck fails."""
    return guest.reason or (guest.health if guest.health == "unhealthy" else None)


class GuestWatches:
    """The watches of a server, one for each deployment that has listeners."""

    def __init__(self, store: Store, look: Look, source: Source | None = None) -> None:
        """``look`` returns the status of a deployment; ``source`` reports changes, if drivers do."""
        self._store = store
        self._look = look
        self._source = source
        self._watches: dict[str, GuestWatch] = {}

    @contextmanager
    def listen(self, name: str, *, figures: bool) -> Iterator[GuestWatch]:
        """Watch a deployment as long as the block runs; with ``figures``, look every few seconds."""
        watch = self._watches.get(name)
        if watch is None or watch.closed:
            watch = self._watches[name] = GuestWatch(self._store, name, self._look, self._source)
            watch.start()
        watch.listeners += 1
        watch.figures += figures
        if figures:
            watch.hurry()
        try:
            yield watch
        finally:
            watch.listeners -= 1
            watch.figures -= figures
            if not watch.listeners:
                watch.stop()
                if self._watches.get(name) is watch:
                    del self._watches[name]
