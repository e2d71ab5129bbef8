"""An action is watched to its end, and stopped by signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from kvmcompose.client.action import perform, replay, watch
from kvmcompose.client.errors import ServerError
from kvmcompose.client.remote import RemoteServer
from kvmcompose.core.commands import Command, Down
from kvmcompose.core.deployment import Action, ActionState, Level, LogLine, Step, StepState
from kvmcompose.core.deployment_event import ActionEnded, DeploymentEvent, LineAdded, StepEnded, StepStarted

UUID = "00000000-0000-4000-8000-000000000001"


def at(second: int) -> str:
    return f"2026-01-02T03:04:{second:02}.000000Z"


def line(sequence: int, second: int = 0) -> LogLine:
    return LogLine(sequence=sequence, time=at(second), level=Level.INFO, text=f"line {sequence}")


def step(name: str, ended: int | None) -> Step:
    state = StepState.RUNNING if ended is None else StepState.DONE
    end = None if ended is None else at(ended)
    return Step(name=name, stage="start", state=state, started=at(0), ended=end)


class Scripted(RemoteServer):
    """A server on which an action tells three lines; it ends after them, or when it is cancelled."""

    def __init__(self, *, waits: bool = False, deaf: bool = False) -> None:
        self.asked: list[Command] = []
        self.cancelled = threading.Event()
        self.waits = waits
        self.deaf = deaf
        self.on_act = lambda: None
        self.on_line = lambda: None
        self.on_step = lambda: None
        self.has_events = True

    def act(self, name: str, command: Command) -> str:
        self.asked.append(command)
        self.on_act()
        return UUID

    def events(
        self, name: str, *, action: str | None = None, status: bool = False, after: int | None = None
    ) -> Iterator[DeploymentEvent]:
        assert (action, after) == (UUID, 0)
        yield StepStarted(number=1, time=at(0), action=UUID, id=1, step=step("boot", None))
        for number in (1, 2, 3):
            yield LineAdded(number=number + 1, time=at(0), action=UUID, line=line(number))
            self.on_line()
        yield StepEnded(number=5, time=at(1), action=UUID, id=1, step=step("boot", 1))
        self.on_step()
        if self.waits:
            assert self.cancelled.wait(10)
        if self.has_events:
            yield ActionEnded(number=6, time=at(5), action=self.action(name, UUID))

    def action(self, name: str, uuid: str) -> Action:
        state = ActionState.CANCELLED if self.cancelled.is_set() else ActionState.SUCCEEDED
        return Action(
            uuid=uuid, deployment=name, command="down", options={}, state=state, started=at(0), ended=at(5)
        )

    def cancel(self, name: str, uuid: str) -> None:
        self.cancelled.set()
        if self.deaf:
            raise ServerError("it does not answer")


class Told:
    """Keeps what it is told, in order."""

    wants_steps = True

    def __init__(self) -> None:
        self.told: list[str] = []
        self.running: list[list[str]] = []

    def line(self, line: LogLine) -> None:
        self.told.append(line.text)

    def steps(self, ended: Sequence[Step], running: Sequence[Step]) -> None:
        self.told += [f"end of {step.name}" for step in ended]
        self.running.append([step.name for step in running])

    def notice(self, text: str) -> None:
        self.told.append(text)


def test_an_action_is_asked_for_and_told_of_to_its_end() -> None:
    server, told = Scripted(), Told()
    assert perform(server, "lab", Down(), told).state is ActionState.SUCCEEDED
    assert server.asked == [Down()]
    assert told.told == ["line 1", "line 2", "line 3", "end of boot"]


def test_watching_can_begin_in_the_middle_and_without_steps() -> None:
    told = Told()
    told.wants_steps = False
    watch(Scripted(), "lab", UUID, told, after=1)
    assert told.told == ["line 2", "line 3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_it_and_the_end_is_waited_for(number: signal.Signals) -> None:
    server, told = Scripted(waits=True), Told()
    once = iter([True])
    server.on_line = lambda: signal.raise_signal(number) if next(once, False) else None
    before = signal.getsignal(number)
    assert perform(server, "lab", Down(), told).state is ActionState.CANCELLED
    assert [text for text in told.told if text.startswith("cancelling")]
    assert signal.getsignal(number) is before


def test_a_signal_that_comes_before_the_uuid_is_known_cancels_it_as_well() -> None:
    server = Scripted(waits=True)
    server.on_act = lambda: signal.raise_signal(signal.SIGINT)
    assert perform(server, "lab", Down(), Told()).state is ActionState.CANCELLED


def test_a_signal_that_comes_too_late_is_told_to_the_caller() -> None:
    class Over(Scripted):
        def cancel(self, name: str, uuid: str) -> None:
            raise ServerError("the action has ended")

    server, interrupted = Over(), threading.Event()
    server.on_step = lambda: signal.raise_signal(signal.SIGINT)
    action = perform(server, "lab", Down(), Told(), interrupted=interrupted)
    assert action.state is ActionState.SUCCEEDED
    assert interrupted.is_set()


def test_the_second_signal_leaves_it_to_the_server() -> None:
    server = Scripted(waits=True)
    server.on_line = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        perform(server, "lab", Down(), Told())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_server_that_cannot_be_told_to_cancel_is_told_of() -> None:
    server, told = Scripted(waits=True, deaf=True), Told()
    server.on_act = lambda: signal.raise_signal(signal.SIGINT)
    perform(server, "lab", Down(), told)
    assert "cannot cancel: it does not answer" in told.told


def test_without_the_main_thread_there_are_no_signals_to_handle() -> None:
    ended: list[Action] = []
    thread = threading.Thread(target=lambda: ended.append(perform(Scripted(), "lab", Down(), Told())))
    thread.start()
    thread.join()
    assert [each.state for each in ended] == [ActionState.SUCCEEDED]


def test_a_replay_puts_the_ends_of_steps_between_the_lines() -> None:
    told = Told()
    steps = [step("second", 3), step("first", 1), step("runs", None)]
    replay([line(1, 0), line(2, 2), line(3, 4)], steps, told)
    assert told.told == ["line 1", "end of first", "line 2", "end of second", "line 3"]


def test_a_step_ends_after_its_own_lines_and_before_those_of_later_ones() -> None:
    told = Told()
    own = msgspec.structs.replace(line(1, 1), step="first")
    later = msgspec.structs.replace(line(2, 1), step="second")
    replay([own, later], [step("first", 1)], told)
    assert told.told == ["line 1", "end of first", "line 2"]


def test_running_steps_are_reported_again_and_again_until_they_end() -> None:
    server, told = Scripted(), Told()
    before = set(threading.enumerate())
    server.on_line = lambda: time.sleep(0.6)
    server.on_step = lambda: time.sleep(0.6)
    watch(server, "lab", UUID, told)
    assert told.running[:3] == [["boot"]] * 3
    assert told.running[-1] == []
    assert told.running.count([]) == 1
    assert set(threading.enumerate()) <= before


def test_an_action_of_a_version_without_events_ends_as_the_server_says() -> None:
    server = Scripted()
    server.has_events = False
    assert watch(server, "lab", UUID, Told()).state is ActionState.SUCCEEDED


def test_steps_end_while_nothing_is_said() -> None:
    server, told = Scripted(waits=True), Told()
    watching = threading.Thread(target=lambda: watch(server, "lab", UUID, told))
    watching.start()
    deadline = time.monotonic() + 10
    while "end of boot" not in told.told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told.told == ["line 1", "line 2", "line 3", "end of boot"]
    server.cancelled.set()
    watching.join()
    assert told.told.count("end of boot") == 1
