"""Actions in words."""

from __future__ import annotations

import pytest

from kvmcompose.client.formatting import (
    duration,
    failure_text,
    fault_text,
    line_text,
    seconds_between,
    state_text,
    step_text,
)
from kvmcompose.core.deployment import (
    Action,
    ActionState,
    Deployment,
    Fault,
    Level,
    LogLine,
    Phase,
    Step,
    StepState,
)

START = "2026-01-02T03:04:05.000000Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (7800, "2 h 10 min"),
        (5 * 86400 + 3 * 3600, "5 d 3 h"),
    ],
)
def test_durations_are_as_exact_as_one_wants_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_watch_that_ticks_shows_no_tenths() -> None:
    assert duration(3.7, whole=True) == "4 s"


@pytest.mark.parametrize("end", ["2026-01-02T03:04:06.5Z", "2026-01-02T04:04:06.500000+01:00"])
def test_times_are_compared_whatever_their_zone(end: str) -> None:
    assert seconds_between(START, end) == 1.5


def test_a_clock_that_was_put_back_makes_no_negative_times() -> None:
    assert seconds_between("2026-01-02T03:04:06Z", START) == 0


def line(level: Level, **about: str | None) -> LogLine:
    return LogLine(**({"sequence": 1, "time": START, "level": level, "text": "some text"} | about))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (line(Level.INFO), "some text"),
        (line(Level.INFO, guest="web", step="start"), "web: some text"),
        (line(Level.OUTPUT, guest="web", step="setup script"), "web | some text"),
        (line(Level.OUTPUT), "some text"),
        (line(Level.ERROR, guest="web", step="setup script"), "web: setup script: some text"),
        (line(Level.WARNING, guest="web", step="start:web"), "start web: some text"),
        (line(Level.WARNING), "some text"),
        (line(Level.ERROR, text="hint: do it", guest="web", step="start:web"), "    hint: do it"),
    ],
)
def test_a_line_says_whom_it_is_about(shown: LogLine, text: str) -> None:
    assert line_text(shown) == text


def test_a_step_names_its_guest_once() -> None:
    step = {"stage": "start", "state": StepState.DONE, "started": START}
    assert step_text(Step(name="boot", guest="web", **step)) == "web: boot"
    assert step_text(Step(name="boot:web", guest="web", **step)) == "boot web"
    assert step_text(Step(name="network", host="main", **step)) == "network"


def test_a_fault_says_who_what_why_where_and_what_would_mend_it() -> None:
    fault = Fault(step="setup script", message="status 3", guest="web", host="main", hint="look at it")
    assert fault_text(fault) == "web: setup script: status 3\n    host: main\n    hint: look at it"
    assert fault_text(Fault(step="network", message="no")) == "network: no"


def test_a_deployment_that_failed_says_in_what() -> None:
    failed = Deployment(name="lab", project_location="/lab", state=Phase.FAILED, failed_command="up")
    assert state_text(failed) == "failed (up)"
    assert state_text(Deployment(name="lab", project_location="/lab", state=Phase.UP)) == "up"


@pytest.mark.parametrize(
    ("state", "refused", "text"),
    [
        (ActionState.SUCCEEDED, False, None),
        (ActionState.FAILED, False, "up failed"),
        (ActionState.FAILED, True, "up was refused: the testbed was not changed"),
        (ActionState.CANCELLED, False, "up was cancelled"),
        (ActionState.INTERRUPTED, False, "up was interrupted: the server ended while it ran"),
        (ActionState.RUNNING, False, "up is still running"),
    ],
)
def test_only_success_needs_no_words(state: ActionState, refused: bool, text: str | None) -> None:
    action = Action(
        uuid="u", deployment="lab", command="up", options={}, state=state, started=START, refused=refused
    )
    assert failure_text(action) == text
