"""Which testbeds are degraded, as far as is known: found by looking at hosts while somebody wants to know.

A list of testbeds must not cost what a look at each costs. So what any look has found is remembered until
the next action, and those who follow the list share one round of looks, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from kvmcompose.core.condition import DEGRADED
from kvmcompose.core.deployment import Deployment, Phase, TestbedStatus
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.store import Store

#: How often a testbed is looked at, in seconds, how long that may take, and the share of the time that looks
#: may take in all.
ROUND_SECONDS, _LOOK_SECONDS, _SHARE = 10.0, 30.0, 0.1
#: How many testbeds one request looks at at the same time, and what is new enough for it, in seconds.
_AT_ONCE, _NEW_SECONDS = 4, 1.0

log = logging.getLogger(__name__)

Look = Callable[[Deployment], Awaitable[TestbedStatus]]
Sees = Callable[[Deployment], bool]


class _Known(msgspec.Struct, frozen=True):
    """What a look has found, after which action, and when (on the clock of ``time.monotonic``)."""

    action: str | None
    condition: str | None
    drift: int
    when: float


class Conditions:
    """The conditions of the deployments of a server."""

    def __init__(self, store: Store, look: Look) -> None:
        """``look`` returns the status of a deployment."""
        self._store = store
        self._look = look
        self._known: dict[str, _Known] = {}
        self._followers: list[Sees] = []
        self._round: asyncio.Task[None] | None = None

    async def status(self, deployment: Deployment) -> TestbedStatus:
        """Look at a deployment, and take note of its condition."""
        try:
            found = await self._look(deployment)
        except KvmComposeError:
            self._note(deployment, DEGRADED, 0)  # no host responds, or what is up cannot be read
            raise
        self._note(found.deployment, found.deployment.condition, found.deployment.drift)
        return found

    def of(self, deployment: Deployment) -> Deployment:
        """Return a deployment with the condition that is known of it, if it is up."""
        known = self._known.get(deployment.name)
        if deployment.state is not Phase.UP or known is None or known.action != deployment.last_action_uuid:
            return deployment
        return msgspec.structs.replace(deployment, condition=known.condition, drift=known.drift)

    async def find(self, deployments: Iterable[Deployment], seconds: float) -> None:
        """Look at those that are up, and for no longer than ``seconds``."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def look(deployment: Deployment) -> None:
            async with slots:
                await self._find(deployment, _NEW_SECONDS)

        tasks = [asyncio.create_task(look(each)) for each in deployments if each.state is Phase.UP]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def following(self, sees: Sees) -> Iterator[None]:
        """Look again and again at those that are up and that ``sees`` names, as long as the block runs."""
        self._followers.append(sees)
        if self._round is None:
            self._round = asyncio.create_task(self._rounds(), name="conditions")
        try:
            yield
        finally:
            self._followers.remove(sees)
            if not self._followers and self._round is not None:
                self._round.cancel()
                self._round = None

    async def _rounds(self) -> None:
        while True:
            due = asyncio.get_running_loop().time() + ROUND_SECONDS
            news = self._store.all_deployments.news
            try:
                await self._round_of_looks()
            except Exception:  # those who follow the list still do: the next round may work
                log.exception("looking which testbeds are degraded")
                await asyncio.sleep(ROUND_SECONDS)
            with suppress(TimeoutError):  # an action that has ended is followed at once
                async with asyncio.timeout_at(due):
                    await news.wait()

    async def _round_of_looks(self) -> None:
        names = dict.fromkeys(each.name for each in self._store.deployments())
        self._known = {name: known for name, known in self._known.items() if name in names}
        for name in names:
            deployment = self._store.deployment(name)  # it may have been removed meanwhile
            if deployment is None or deployment.state is not Phase.UP:
                continue
            if any(sees(deployment) for sees in self._followers):
                began = time.monotonic()
                if await self._find(deployment, ROUND_SECONDS / 2):
                    await asyncio.sleep((time.monotonic() - began) * (1 / _SHARE - 1))

    async def _find(self, deployment: Deployment, new: float) -> bool:
        """Look at a deployment, unless what is known of it is not older than ``new`` seconds."""
        known = self._known.get(deployment.name)
        after = known is not None and known.action == deployment.last_action_uuid
        if after and known is not None and time.monotonic() - known.when < new:
            return False
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self.status(deployment)
        except TimeoutError:
            self._note(deployment, DEGRADED, 0)
        except KvmComposeError as error:
            log.debug("%s: %s", deployment.name, error.message)
        except Exception:
            log.exception("%s: the status", deployment.name)
        return True

    def _note(self, deployment: Deployment, condition: str | None, drift: int) -> None:
        if deployment.state is not Phase.UP:
            return
        before = self._known.get(deployment.name)
        known = _Known(deployment.last_action_uuid, condition, drift, time.monotonic())
        self._known[deployment.name] = known
        shown = (known.action, known.condition, known.drift)
        if before is None or (before.action, before.condition, before.drift) != shown:
            self._store.all_deployments.wake_soon()
