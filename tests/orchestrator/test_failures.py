"""Whatever call fails, wherever an action is cancelled or its server killed: up and down go on from there."""

from __future__ import annotations

import asyncio
import glob
import os
import signal
from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Exec, Up
from kvmcompose.core.deployment import ActionState, Phase, StepState
from kvmcompose.hosts.fake import Failure
from kvmcompose.server.actions import Actions, BusyError

if TYPE_CHECKING:
    from conftest import Lab

GUESTS = {"web", "db", "alone", "worker-0", "worker-1"}


def _calls(lab: Lab, command: Up | Down) -> list[str]:
    """The calls of a run without failures, each name once, in order."""
    lab.drivers.calls.clear()
    lab.must(command)
    # whether a guest goes off is of no interest once it is ready, which fakes are at once
    return [call for call in dict.fromkeys(lab.drivers.calls) if not call.startswith("wait_off:")]


def test_every_call_of_up_may_fail(lab: Lab) -> None:
    calls = _calls(lab, Up())
    lab.must(Down(purge=True))
    assert len(calls) > 40
    for call in calls:
        lab.drivers.failures = [Failure(glob.escape(call), 1)]
        action = lab.do(Up())
        assert lab.drivers.failures[0].left == 0, call
        assert action.state is ActionState.FAILED, call
        fault = action.faults[0]
        assert f"{call} was made to fail" in fault.message, (call, action.faults)
        assert fault.step
        method, _, target = call.partition(":")
        if method in ("start_domain", "wait_ready", "wait_off", "forget") or method == "run":
            assert fault.guest == target.removeprefix("lab-").partition(":")[0], call
            assert fault.host == "one"
        lab.must(Up())
        assert lab.running() == GUESTS, call
        lab.must(Down(purge=True))
        lab.assert_clean()


def test_every_call_of_up_may_fail_and_down_leaves_nothing(lab: Lab) -> None:
    calls = _calls(lab, Up())
    lab.must(Down(purge=True))
    for call in calls:
        lab.drivers.failures = [Failure(glob.escape(call), 1)]
        assert lab.do(Up()).state is ActionState.FAILED, call
        lab.must(Down(purge=True))
        lab.assert_clean()
        assert lab.deployment.state is Phase.DOWN


def test_every_call_of_down_may_fail(lab: Lab) -> None:
    lab.must(Up())
    calls = _calls(lab, Down(purge=True))
    assert len(calls) > 20
    for call in calls:
        lab.must(Up())
        lab.drivers.failures = [Failure(glob.escape(call), 1)]
        action = lab.do(Down(purge=True))
        assert action.state is ActionState.FAILED, call
        assert f"{call} was made to fail" in action.faults[0].message
        assert lab.deployment.state is Phase.FAILED
        assert lab.deployment.failed_command == "down"
        lab.must(Down(purge=True))
        lab.assert_clean()


def test_up_goes_on_after_a_down_that_failed(lab: Lab) -> None:
    lab.must(Up())
    for call in _calls(lab, Down()):
        lab.must(Up())
        lab.drivers.failures = [Failure(glob.escape(call), 1)]
        assert lab.do(Down()).state is ActionState.FAILED, call
        lab.must(Up())
        assert lab.running() == GUESTS, call
        lab.must(Down())


def test_one_guest_that_fails_does_not_stop_the_others_of_its_stage(lab: Lab) -> None:
    lab.drivers.failures = [Failure("wait_ready:db", 1)]
    action = lab.do(Up())
    assert lab.running() == GUESTS
    assert [fault.guest for fault in action.faults] == ["db"]
    assert not any(step.stage == "setup" for step in lab.store.steps(action.uuid))
    assert "(a fake console)" in lab.text(action)


def test_keep_going_goes_on_without_those_that_failed(lab: Lab) -> None:
    lab.drivers.failures = [Failure("wait_ready:worker-0")]
    action = lab.do(Up(keep_going=True))
    assert action.state is ActionState.FAILED
    steps = {step.name: step.state for step in lab.store.steps(action.uuid)}
    assert steps["setup:web:00-setup.sh"] is StepState.DONE
    assert steps["run:worker-1:00-run.sh"] is StepState.DONE
    assert "setup:worker-0:00-clone.sh" not in steps


def test_clones_of_an_image_that_failed_are_not_started(lab: Lab) -> None:
    lab.drivers.failures = [Failure("run:worker:*shared.sh")]
    action = lab.do(Up(keep_going=True))
    assert action.state is ActionState.FAILED
    assert lab.running() == {"web", "db", "alone"}
    assert "lab-worker" not in lab.world.domains


@pytest.mark.parametrize("command", [Up(), Down(purge=True)])
def test_cancelled_at_any_call_it_can_go_on_either_way(lab: Lab, command: Up | Down) -> None:
    if isinstance(command, Down):
        lab.must(Up())
    count = len(lab.drivers.calls)
    lab.must(command)
    count = len(lab.drivers.calls) - count
    for at in range(1, count, 3):
        for after in (Up(), Down(purge=True)):
            lab.must(Up() if isinstance(command, Down) else Down(purge=True))
            _cancel_at(lab, command, at)
            lab.must(after)
            if isinstance(after, Up):
                assert lab.running() == GUESTS, at
                lab.must(Down(purge=True))
            lab.assert_clean()


def _cancel_at(lab: Lab, command: Up | Down, at: int) -> None:
    async def run() -> None:
        actions = Actions(lab.store, lab.orchestrator)
        begun = len(lab.drivers.calls)
        call = lab.drivers.call

        async def counting(method: str, target: str = "") -> None:
            if len(lab.drivers.calls) - begun == at:
                actions.cancel(uuid)
            await call(method, target)

        lab.drivers.call = counting  # type: ignore[method-assign]
        try:
            uuid = actions.begin(lab.deployment, command).uuid
            await actions.wait(uuid)
        finally:
            del lab.drivers.call
        action = lab.store.action(uuid)
        assert action is not None
        assert action.state in (ActionState.CANCELLED, ActionState.SUCCEEDED), (at, action.faults)
        running = [step.name for step in lab.store.steps(uuid) if step.state is StepState.RUNNING]
        assert not running

    asyncio.run(run())


@pytest.mark.parametrize("command", [Up(), Down(purge=True)])
def test_a_server_killed_at_any_call_goes_on_either_way(lab: Lab, command: Up | Down) -> None:
    """What a killed server leaves is what the store and the world hold at that moment."""
    if isinstance(command, Down):
        lab.must(Up())
    count = len(lab.drivers.calls)
    lab.must(command)
    count = len(lab.drivers.calls) - count
    for at in range(1, count, 3):
        for after in (Up(), Down(purge=True)):
            lab.must(Up() if isinstance(command, Down) else Down(purge=True))
            _kill_at(lab, command, at)
            assert lab.deployment.state is Phase.FAILED
            assert lab.deployment.failed_command == ("up" if isinstance(command, Up) else "down")
            latest = lab.store.actions("lab")[0]
            assert latest.state is ActionState.INTERRUPTED
            lab.must(after)
            if isinstance(after, Up):
                assert lab.running() == GUESTS, at
                lab.must(Down(purge=True))
            lab.assert_clean()


def _kill_at(lab: Lab, command: Up | Down, at: int, *, may_end: bool = False) -> bool:
    """In a process of its own, which ends as if killed at a call; it ``may_end`` before: return False."""
    lab.store.close()
    child = os.fork()
    if child == 0:
        try:
            lab.restart()
            _die_at(lab, command, at)
            os._exit(0 if may_end else 1)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, *((0,) if may_end else ()))
    lab.restart()
    return os.WIFSIGNALED(status)


def _die_at(lab: Lab, command: Up | Down, at: int) -> None:
    call = lab.drivers.call

    async def counting(method: str, target: str = "") -> None:
        if len(lab.drivers.calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        await call(method, target)

    lab.drivers.call = counting  # type: ignore[method-assign]
    lab.do(command)


def test_one_action_at_a_time_but_execs_side_by_side(lab: Lab) -> None:
    lab.must(Up())

    async def run() -> None:
        actions = Actions(lab.store, lab.orchestrator)
        lab.drivers.delay = 0.01
        first = actions.begin(lab.deployment, Exec(guest="web", argv=("sleep", "5")), "ann@desk")
        second = actions.begin(lab.deployment, Exec(guest="db", argv=("true",)))
        with pytest.raises(BusyError) as busy:
            actions.begin(lab.deployment, Down())
        assert "'exec' has been running since" in busy.value.message
        assert "ann@desk" in busy.value.message
        await actions.wait(second.uuid)
        assert actions.cancel(first.uuid)
        await actions.wait(first.uuid)
        cancelled = lab.store.action(first.uuid)
        assert cancelled is not None
        assert cancelled.state is ActionState.CANCELLED
        down = actions.begin(lab.deployment, Down())
        with pytest.raises(BusyError):
            actions.begin(lab.deployment, Exec(guest="db", argv=("true",)))
        await actions.wait(down.uuid)
        assert not actions.cancel(down.uuid)
        assert not actions.busy

    asyncio.run(run())
    assert lab.deployment.state is Phase.DOWN


def test_a_network_that_fails_is_one_fault_and_what_needs_it_is_named_in_one_line(lab: Lab) -> None:
    lab.drivers.failures.append(Failure("start_network:*"))
    action = lab.do(Up())
    (fault,) = action.faults
    assert fault.message.startswith("start_network:lab-network was made to fail")
    lines = [each for each in lab.text(action).splitlines() if each.startswith("not begun")]
    assert lines == ["not begun, as something that it needs has failed: lab-veth0"]
    # what connects the bridges with each other is not held up, and the rest follows
    assert "change_bridges:lab" in lab.drivers.calls
    lab.drivers.failures.clear()
    lab.must(Up())
