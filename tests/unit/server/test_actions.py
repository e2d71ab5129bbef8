from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable

import pytest

from kvmcompose.core.commands import Command, Down, Exec, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState, Deployment, Level, NewDeployment, Phase, StepState
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.server.action_log import LONGEST_LINE, ActionLog
from kvmcompose.server.actions import Actions, BusyError
from kvmcompose.server.orchestrator import Orchestrator, Outcome
from kvmcompose.server.store import Store

Work = Callable[[ActionLog], Awaitable[Outcome]]


class Doing(Orchestrator):
    """Does one thing."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def run(
        self,
        deployment: Deployment,
        command: Command,
        log: ActionLog,
        stdin: AsyncIterable[bytes] | None = None,
    ) -> Outcome:
        return await self._work(log)


class Bench:
    """Actions of one deployment."""

    def __init__(self, work: Work) -> None:
        self.store = Store(None)
        self.store.put_deployment(NewDeployment("demo", "/demo"))
        self.actions = Actions(self.store, Doing(work))

    @property
    def deployment(self) -> Deployment:
        found = self.store.deployment("demo")
        assert found is not None
        return found

    def begin(self, command: Command | None = None) -> str:
        return self.actions.begin(self.deployment, command or Up(), "eve").uuid

    def state(self, uuid: str) -> ActionState:
        found = self.store.action(uuid)
        assert found is not None
        return found.state


async def nothing(_log: ActionLog) -> Outcome:
    return Outcome(Phase.UP)


async def for_ever(_log: ActionLog) -> Outcome:
    await asyncio.Event().wait()
    return Outcome()


def test_one_command_at_a_time_but_execs_go_along() -> None:
    async def scenario() -> None:
        bench = Bench(for_ever)
        first = bench.begin(Exec(guest="a", argv=("b",)))
        bench.begin(Exec(guest="a", argv=("b",)))
        with pytest.raises(BusyError) as caught:
            bench.begin(Up())
        assert caught.value.action.uuid == first
        await bench.actions.stop()
        bench.begin(Up())
        for command in (Down(), Exec(guest="a", argv=("b",))):
            with pytest.raises(BusyError, match="eve"):
                bench.begin(command)
        assert bench.actions.running("demo") is not None
        assert bench.actions.running("other") is None
        await bench.actions.stop()
        assert not bench.actions.busy

    asyncio.run(scenario())


def test_an_action_cancelled_before_its_turn_ends_and_changes_nothing() -> None:
    async def scenario() -> None:
        bench = Bench(nothing)
        uuid = bench.begin()
        assert bench.actions.cancel(uuid)
        await asyncio.wait_for(bench.actions.wait(uuid), 5)
        assert bench.state(uuid) is ActionState.CANCELLED
        assert bench.deployment.state is Phase.DOWN
        assert not bench.actions.busy
        assert not bench.actions.cancel(uuid)

    asyncio.run(scenario())


def test_an_action_cancelled_in_the_middle_leaves_the_deployment_failed() -> None:
    async def scenario() -> None:
        bench = Bench(for_ever)
        uuid = bench.begin()
        await asyncio.sleep(0)
        assert bench.deployment.state is Phase.RUNNING
        assert bench.actions.cancel(uuid)
        assert bench.actions.cancel(uuid)
        await asyncio.wait_for(bench.actions.wait(uuid), 5)
        assert bench.state(uuid) is ActionState.CANCELLED
        assert (bench.deployment.state, bench.deployment.failed_command) == (Phase.FAILED, "up")

    asyncio.run(scenario())


def test_how_it_ends_says_where_the_deployment_is() -> None:
    async def fail(_log: ActionLog) -> Outcome:
        raise KvmComposeError("no", hint="yes")

    async def refuse(_log: ActionLog) -> Outcome:
        raise RefusedError("no")

    async def scenario(work: Work, command: Command) -> tuple[ActionState, Phase, str | None]:
        bench = Bench(work)
        bench.store.set_phase("demo", Phase.FAILED, "down")
        uuid = bench.begin(command)
        await bench.actions.wait(uuid)
        return bench.state(uuid), bench.deployment.state, bench.deployment.failed_command

    def run(work: Work, command: Command | None = None) -> tuple[ActionState, Phase, str | None]:
        return asyncio.run(scenario(work, command or Up()))

    assert run(nothing) == (ActionState.SUCCEEDED, Phase.UP, None)
    assert run(fail) == (ActionState.FAILED, Phase.FAILED, "up")
    assert run(refuse) == (ActionState.FAILED, Phase.FAILED, "down")
    assert run(fail, Exec(guest="a", argv=("b",))) == (ActionState.FAILED, Phase.FAILED, "down")


def test_a_snapshot_that_fails_leaves_the_deployment_up() -> None:
    async def fail(_log: ActionLog) -> Outcome:
        raise KvmComposeError("no")

    async def scenario(work: Work, *, cancel: bool) -> None:
        bench = Bench(work)
        bench.store.set_phase("demo", Phase.UP)
        uuid = bench.begin(Snapshot(verb=SnapshotVerb.CREATE, name="one"))
        await asyncio.sleep(0)
        assert not cancel or bench.actions.cancel(uuid)
        await asyncio.wait_for(bench.actions.wait(uuid), 5)
        assert bench.state(uuid) is (ActionState.CANCELLED if cancel else ActionState.FAILED)
        assert (bench.deployment.state, bench.deployment.failed_command) == (Phase.UP, None)

    asyncio.run(scenario(fail, cancel=False))
    asyncio.run(scenario(for_ever, cancel=True))


def test_a_memory_that_fails_does_not_leave_the_deployment_busy_for_ever() -> None:
    async def scenario() -> None:
        bench = Bench(nothing)
        uuid = bench.begin()

        def broken(*_: object, **__: object) -> None:
            raise OSError("no space left")

        bench.store.end_action = broken  # type: ignore[method-assign]
        running = bench.actions._running[uuid]
        await bench.actions.wait(uuid)
        assert not bench.actions.busy
        assert running.task is not None
        assert isinstance(running.task.exception(), OSError)

    asyncio.run(scenario())


def test_a_follower_sees_what_comes_between_its_look_and_its_wait() -> None:
    """What another task says in the very turn in which a follower begins to wait is not missed."""

    async def scenario() -> None:
        ready = asyncio.Event()

        async def work(log: ActionLog) -> Outcome:
            await ready.wait()
            log.say("now")
            await asyncio.Event().wait()
            return Outcome()

        bench = Bench(work)
        uuid = bench.begin()
        await asyncio.sleep(0)
        lines = bench.actions.follow(uuid)
        ready.set()  # the action is the next to run, right after the follower's look
        line = await asyncio.wait_for(anext(lines), 5)
        assert line.text == "now"
        await lines.aclose()  # type: ignore[attr-defined]
        await bench.actions.stop()

    asyncio.run(scenario())


def test_lines_are_clean_and_of_a_bearable_length() -> None:
    async def scenario() -> list[str]:
        async def work(log: ActionLog) -> Outcome:
            log.say("\x1b[31mred\x1b[0m\x07\x9b1m \x1b]0;title\x07end\ttab")
            log.say("one\ntwo\r\nthree")
            log.say("")
            log.say("lone \ud800 surrogate")
            log.say("x" * (2 * LONGEST_LINE + 1))
            return Outcome()

        bench = Bench(work)
        uuid = bench.begin()
        return [line.text async for line in bench.actions.follow(uuid)]

    texts = asyncio.run(scenario())
    assert texts[:6] == ["red1m end\ttab", "one", "two", "three", "", "lone ? surrogate"]
    assert [len(text) for text in texts[6:]] == [LONGEST_LINE, LONGEST_LINE, 1]


def test_steps_end_as_their_block_does() -> None:
    async def work(log: ActionLog) -> Outcome:
        with log.step("stage", "done"):
            pass
        with log.step("stage", "skipped") as step:
            step.skip()
        with log.step("stage", "failed", guest="web"):
            raise KvmComposeError("no", hint="yes")
        return Outcome()

    async def scenario() -> None:
        bench = Bench(work)
        uuid = bench.begin()
        await bench.actions.wait(uuid)
        assert [step.state for step in bench.store.steps(uuid)] == [
            StepState.DONE,
            StepState.SKIPPED,
            StepState.FAILED,
        ]
        (fault,) = bench.store.action(uuid).faults  # type: ignore[union-attr]
        assert (fault.step, fault.guest, fault.message, fault.hint) == ("failed", "web", "no", "yes")
        errors = [line for line in bench.store.lines(uuid) if line.level is Level.ERROR]
        assert [line.text for line in errors] == ["no", "hint: yes"]

    asyncio.run(scenario())
