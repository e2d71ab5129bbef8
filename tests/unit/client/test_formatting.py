"""Actions in words."""

from __future__ import annotations

import pytest

from kvmcompose.client.formatting import (
    duration,
    failure_text,
    fault_text,
    guest_state_text,
    line_text,
    memory_text,
    seconds_between,
    state_text,
    step_text,
)
from kvmcompose.core.deployment import (
    Action,
    ActionState,
    Deployment,
    Fault,
    GuestStatus,
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
        (line(Level.INFO, text="web is started: db needs it", guest="web"), "web is started: db needs it"),
        (line(Level.INFO, text="webs", guest="web"), "web: webs"),
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


def test_a_cancelled_command_did_not_fail() -> None:
    cancelled = Deployment(
        name="lab", project_location="/", state=Phase.FAILED, failed_command="up", condition="cancelled"
    )
    assert state_text(cancelled) == "cancelled (up)"


@pytest.mark.parametrize(
    ("state", "reason", "asked", "text"),
    [
        ("running", None, None, "running"),
        ("paused", "I/O error: no space for vda", None, "paused: I/O error: no space for vda"),
        ("paused", "by user", "paused", "paused (pause)"),
        ("paused", "I/O error", "shut off", "paused: I/O error"),
        ("shut off", "destroyed", "shut off", "stopped (stop)"),
        ("shut off", "destroyed", None, "shut off: switched off"),
        ("shut off", "shutdown", None, "shut off: it shut down"),
        ("crashed", "panicked", None, "crashed: panicked"),
        ("running", None, "shut off", "running"),
    ],
)
def test_a_guests_state_says_why(state: str, reason: str | None, asked: str | None, text: str) -> None:
    guest = GuestStatus(name="web", kind="libvirt", host="main", state=state, reason=reason, asked=asked)
    assert guest_state_text(guest) == text


@pytest.mark.parametrize(
    ("used", "given", "text"),
    [(120, 128, "120 of 128 MiB"), (120, None, "120 MiB"), (None, 128, "-")],
)
def test_memory_is_used_of_given(used: int | None, given: int | None, text: str) -> None:
    guest = GuestStatus(
        name="web", kind="libvirt", host="main", state="running", memory_mb=356, used_mb=used, given_mb=given
    )
    assert memory_text(guest) == text


def test_an_action_is_called_as_its_command() -> None:
    action = Action(
        uuid="u", deployment="lab", command="power", options={"verb": "stop"}, state=ActionState.FAILED,
        started=START,
    )  # fmt: skip
    assert failure_text(action) == "stop failed"


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
