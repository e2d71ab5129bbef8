"""Which testbeds are degraded is known from the last look, and looked for while somebody follows the list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import msgspec
import pytest

from kvmcompose.core.commands import Up
from kvmcompose.core.condition import DEGRADED
from kvmcompose.core.deployment import ActionState, Deployment, NewDeployment, Phase, TestbedStatus
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server import conditions
from kvmcompose.server.conditions import Conditions
from kvmcompose.server.store import Store


class Testbeds:
    """Testbeds that are up, of which a look finds ``drift``; each look is in ``looks``."""

    __test__ = False

    def __init__(self, *names: str) -> None:
        self.store = Store(None)
        self.drift = dict.fromkeys(names, 0)
        self.silent: set[str] = set()
        self.slow: set[str] = set()
        self.looks: list[str] = []
        for name in names:
            self.store.put_deployment(NewDeployment(name, f"/projects/{name}"))
            self.up(name)
        self.conditions = Conditions(self.store, self._look)

    def up(self, name: str) -> None:
        action = self.store.begin_action(name, Up(), "eve", exclusive=True)
        self.store.end_action(action.uuid, ActionState.SUCCEEDED, faults=[], phase=(Phase.UP, None))

    def now(self, name: str) -> Deployment:
        found = self.store.deployment(name)
        assert found is not None
        return self.conditions.of(found)

    async def _look(self, deployment: Deployment) -> TestbedStatus:
        self.looks.append(deployment.name)
        if deployment.name in self.silent:
            raise KvmComposeError("no host answers")
        if deployment.name in self.slow:
            await asyncio.Event().wait()
        drift = self.drift[deployment.name]
        word = DEGRADED if drift else "up"
        return TestbedStatus(
            deployment=msgspec.structs.replace(deployment, condition=word, drift=drift), guests=()
        )

    async def until(self, found: Callable[[], bool]) -> None:
        for turn in count():
            if found():
                return
            assert turn < 10_000
            await asyncio.sleep(0.001)


async def known_until_the_next_action(it: Testbeds) -> None:
    it.drift["demo"] = 3
    assert it.now("demo").condition == "up"
    await it.conditions.find(it.store.deployments(), 5)
    assert (it.now("demo").condition, it.now("demo").drift) == (DEGRADED, 3)
    await it.conditions.find(it.store.deployments(), 5)
    assert it.looks == ["demo"]  # what was seen just now is not looked for again
    it.up("demo")
    assert (it.now("demo").condition, it.now("demo").drift) == ("up", 0)


async def a_request_does_not_wait_for_a_host_that_hangs(it: Testbeds) -> None:
    it.slow.add("a")
    it.silent.add("b")
    it.drift["c"] = 1
    await it.conditions.find(it.store.deployments(), 0.2)
    assert [it.now(name).condition for name in "abc"] == ["up", DEGRADED, DEGRADED]


async def followed(it: Testbeds) -> None:
    """Only what a follower may see is looked at; what has changed wakes the followers of the list."""
    news = it.store.all_deployments.news
    with it.store.all_deployments.reading(), it.conditions.following(lambda each: each.name == "a"):
        await it.until(lambda: bool(it.looks))
        it.drift["a"] = 2
        await it.until(lambda: it.now("a").drift == 2)
        await it.until(news.is_set)
        it.drift["a"] = 0
        await it.until(lambda: it.now("a").condition == "up")
        it.store.remove_deployment("a")
        await it.until(lambda: "a" not in it.conditions._known)
    assert set(it.looks) == {"a"}
    looks = len(it.looks)
    await asyncio.sleep(0.05)
    assert len(it.looks) == looks  # nobody wants to know


async def an_error(it: Testbeds) -> None:
    """It ends no round but its own."""
    errors = iter([True])

    def sees(_deployment: Deployment) -> bool:
        if next(errors, False):
            raise OSError("the store does not answer")
        return True

    with it.conditions.following(sees):
        await it.until(lambda: bool(it.looks))
    assert next(errors, None) is None


def test_what_is_known_is_known_until_the_next_action() -> None:
    asyncio.run(known_until_the_next_action(Testbeds("demo")))


def test_a_request_does_not_wait_for_a_host_that_hangs() -> None:
    asyncio.run(a_request_does_not_wait_for_a_host_that_hangs(Testbeds("a", "b", "c")))


def test_it_is_looked_for_while_somebody_follows_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "ROUND_SECONDS", 0.01)
    asyncio.run(followed(Testbeds("a", "b")))


def test_rounds_go_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "ROUND_SECONDS", 0.01)
    asyncio.run(an_error(Testbeds("a")))
