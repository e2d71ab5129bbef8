"""Connects guests again that were restarted outside of kvm-compose: what a daemon does by itself.

Hosts report starts of guests as they happen (``Orchestrator.starts``). What has lost its interfaces by one
gets them back in an action of its own, ``reconnect``. A guest that restarts all the time gets them less and
less often.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from contextlib import aclosing, suppress

from kvmcompose.core.commands import Reconnect
from kvmcompose.core.deployment import ActionState, Deployment, Phase
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.actions import Actions, BusyError
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.store import Store

log = logging.getLogger(__name__)

#: Who gives the command, in lists of actions.
WHO = "the server"
#: How long guests are waited for that start together, in seconds.
_TOGETHER = 0.2
#: Seconds between two times that a guest is connected again: at first, at most, at most while that fails, and
#: after how long it begins with the first one again.
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_OF_FAILURES, _CALM = 1.0, 60.0, 600.0, 300.0
#: How long after hosts report nothing they are listened to again, in seconds.
_LISTEN_AGAIN = 30.0


class _Pace:
    """When a guest may be connected again."""

    def __init__(self) -> None:
        self.next = 0.0
        self._pause = 0.0
        self._last = 0.0

    def step(self, *, failed: bool) -> None:
        """Note that it was, or that this failed."""
        now = time.monotonic()
        if not self._pause or now - self._last > max(_CALM, 2 * self._pause):
            self._pause = _FIRST_PAUSE
        else:
            self._pause = min(2 * self._pause, _LONGEST_OF_FAILURES if failed else _LONGEST_PAUSE)
        self._last, self.next = now, now + self._pause


class _Keeper:
    """Keeps the guests of one deployment connected, as it was brought up by one action."""

    def __init__(
        self,
        store: Store,
        actions: Actions,
        orchestrator: Orchestrator,
        deployment: Deployment,
        paces: dict[str, _Pace],
    ) -> None:
        """``paces`` are by the identities of guests."""
        self._store = store
        self._actions = actions
        self._orchestrator = orchestrator
        self._deployment = deployment
        self._paces = paces
        self._started: set[str] = set()
        self._said = ""
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled, or until there is no guest that could lose its interfaces."""
        connecting = asyncio.create_task(self._connect_all())
        try:
            while True:
                if await self._listen():
                    return
                await asyncio.sleep(_LISTEN_AGAIN)
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)

    async def _listen(self) -> bool:
        """Take note of guests that start. Return whether there are none."""
        try:
            async with aclosing(self._orchestrator.starts(self._deployment)) as starts:
                async for guest in starts:
                    self._begin_again([guest])
        except KvmComposeError as error:
            if error.message != self._said:
                log.info("%s: the hosts report no starts of guests: %s", self._deployment.name, error.message)
            self._said = error.message
            return False
        except Exception:
            log.exception("%s: the hosts report no starts of guests", self._deployment.name)
            return False
        return True

    def _begin_again(self, guests: Collection[str]) -> None:
        for each in guests:
            self._paces.setdefault(each, _Pace())
        self._started.update(guests)
        self._news.set()

    async def _connect_all(self) -> None:
        while True:
            due = await self._due()
            try:
                await self._connect(due)
            except BusyError:
                self._begin_again(due)
            except KvmComposeError as error:
                log.info("%s: guests cannot be connected again: %s", self._deployment.name, error.message)
                self._failed(due)
            except Exception:
                log.exception("%s: guests cannot be connected again", self._deployment.name)
                self._failed(due)

    async def _due(self) -> set[str]:
        """Return guests that have started, as soon as their time has come."""
        while True:
            self._news.clear()
            now = time.monotonic()
            left = min((self._paces[each].next - now for each in self._started), default=None)
            if left is not None and left <= 0:
                await asyncio.sleep(_TOGETHER)
                now = time.monotonic()
                due = {each for each in self._started if self._paces[each].next <= now}
                self._started -= due
                return due
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)

    async def _connect(self, guests: Collection[str]) -> None:
        """Connect those of some guests that have lost interfaces."""
        await self._actions.wait_idle(self._deployment.name)
        found = await self._orchestrator.disconnected(self._deployment, guests)
        if found.unknown:
            log.info("%s: %s", self._deployment.name, found.why)
            self._failed(found.unknown)
        if not found.guests:
            return
        command = Reconnect(guests=tuple(sorted(found.guests)))
        action = self._actions.begin(self._deployment, command, WHO)
        await self._actions.wait(action.uuid)
        ended = self._store.action(action.uuid)
        if ended is not None and ended.state is ActionState.SUCCEEDED:
            for each in found.guests.values():
                self._paces[each].step(failed=False)
        else:
            self._failed(found.guests.values())

    def _failed(self, guests: Collection[str]) -> None:
        """Try again with these guests, later."""
        for each in guests:
            self._paces[each].step(failed=True)
        self._begin_again(guests)


class Reconnection:
    """Keeps the guests of all deployments of a server connected."""

    def __init__(self, store: Store, actions: Actions, orchestrator: Orchestrator) -> None:
        self._store = store
        self._actions = actions
        self._orchestrator = orchestrator
        self._keepers: dict[str, tuple[str | None, asyncio.Task[None]]] = {}
        self._paces: dict[str, dict[str, _Pace]] = {}
        self._adjusting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with the deployments that are up, and go on with those that come up."""
        self._adjusting = asyncio.create_task(self._run(), name="reconnection")

    async def stop(self) -> None:
        """Begin no more actions."""
        tasks = [task for _, task in self._keepers.values()]
        if self._adjusting is not None:
            tasks.append(self._adjusting)
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            news = self._actions.endings.news
            try:
                self._adjust()
            except Exception:
                log.exception("guests are not connected again")
            await news.wait()

    def _adjust(self) -> None:
        """Restart the keeper of each deployment that an action has changed: guests and hosts may differ."""
        deployments = {each.name: each for each in self._store.deployments()}
        for name in self._keepers.keys() - deployments.keys():
            self._end(name)
        for name in self._paces.keys() - deployments.keys():
            del self._paces[name]
        for name, deployment in deployments.items():
            if deployment.state is Phase.RUNNING:
                continue  # until the action has ended
            if not _is_up(deployment):
                self._end(name)
            elif name not in self._keepers or self._keepers[name][0] != deployment.last_action_uuid:
                self._end(name)
                paces = self._paces.setdefault(name, {})
                keeper = _Keeper(self._store, self._actions, self._orchestrator, deployment, paces)
                task = asyncio.create_task(keeper.run(), name=f"reconnection of {name}")
                self._keepers[name] = deployment.last_action_uuid, task

    def _end(self, name: str) -> None:
        if name in self._keepers:
            self._keepers.pop(name)[1].cancel()


def _is_up(deployment: Deployment) -> bool:
    """Return whether a deployment has guests that are to run: a failed ``up`` leaves some, too."""
    if deployment.state is Phase.FAILED:
        return deployment.failed_command != "down"
    return deployment.state is Phase.UP
