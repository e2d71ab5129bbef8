"""What is shown of an action."""

from __future__ import annotations

import json
import re
from typing import NoReturn

import pytest

from kvmcompose.core.deployment import Action, ActionState, Fault, Level, LogLine, Step, StepState
from kvmcompose.monitor.action import ActionJson, ActionLines, ActionOutput
from kvmcompose.monitor.console import Console

Captured = pytest.CaptureFixture[str]


def at(second: float) -> str:
    return f"2026-01-02T03:04:{second:09.6f}Z"


def line(text: str, level: Level = Level.INFO, **about: str | None) -> LogLine:
    return LogLine(sequence=1, time=at(0), level=level, text=text, **about)


def step(name: str, state: StepState = StepState.DONE, **about: str | None) -> Step:
    ended = None if state is StepState.RUNNING else at(1.5)
    return Step(
        **({"name": name, "stage": "start guests", "state": state, "started": at(0), "ended": ended} | about)
    )


def action(state: ActionState, **about: object) -> Action:
    return Action(
        **(
            {"uuid": "u", "deployment": "lab", "command": "up", "options": {}, "state": state,
             "started": at(0), "ended": at(41)}
            | about
        )
    )  # fmt: skip


def show(lines: ActionLines) -> None:
    lines.line(line("2 guests on 1 host"))
    lines.steps([step("boot", guest="web")], [step("boot", StepState.RUNNING, guest="db")])
    lines.line(line("hello", Level.OUTPUT, guest="web", stage="setup scripts", step="setup script"))
    lines.line(line("it is slow", Level.WARNING, guest="web", stage="setup scripts", step="setup script"))
    lines.line(line("status 3", Level.ERROR, guest="db", stage="setup scripts", step="setup script"))
    lines.steps(
        [
            step("boot", StepState.SKIPPED, guest="db"),
            step("setup script", StepState.FAILED, guest="db", stage="setup scripts", host="main"),
        ],
        [],
    )


def test_stages_steps_and_lines_in_the_order_they_come(capsys: Captured) -> None:
    show(ActionLines(Console()))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "2 guests on 1 host",
        "start guests:",
        "done     web: boot  (1.5 s)",
        "setup scripts:",
        "web | hello",
        "warning: web: setup script: it is slow",
        "error: db: setup script: status 3",
        "failed   db: setup script  (1.5 s)",
    ]


def test_quiet_leaves_trouble(capsys: Captured) -> None:
    show(ActionLines(Console(verbosity=-1)))
    assert capsys.readouterr().err.splitlines() == [
        "warning: web: setup script: it is slow",
        "error: db: setup script: status 3",
    ]


def test_verbose_tells_what_there_was_nothing_to_do_about_and_where(capsys: Captured) -> None:
    show(ActionLines(Console(verbosity=1)))
    shown = capsys.readouterr().err.splitlines()
    assert "skipped  db: boot  (1.5 s)" in shown
    assert "failed   db: setup script on main  (1.5 s)" in shown


def test_one_guest_of_several(capsys: Captured) -> None:
    show(ActionLines(Console(), data=True, only=["web"]))
    assert capsys.readouterr().out.splitlines() == [
        "start guests:",
        "done     web: boot  (1.5 s)",
        "setup scripts:",
        "web | hello",
        "warning: web: setup script: it is slow",
    ]


def test_timestamps_stand_before_lines(capsys: Captured) -> None:
    ActionLines(Console(), data=True, timestamps=True).line(line("text"))
    assert re.fullmatch(r"\d\d:\d\d:00 text\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("ended", "guests", "text"),
    [
        (action(ActionState.SUCCEEDED), 3, "up: 3 guests in 41 s\n"),
        (action(ActionState.SUCCEEDED), 1, "up: 1 guest in 41 s\n"),
        (action(ActionState.SUCCEEDED, command="down"), None, "down: done in 41 s\n"),
        (action(ActionState.CANCELLED), None, "error: up was cancelled after 41 s\n"),
        (
            action(ActionState.FAILED, faults=(Fault(step="boot", message="no"),)),
            None,
            "error: up failed after 41 s\n    hint: kvm-compose errors shows what went wrong\n",
        ),
    ],
)
def test_the_last_line_tells_how_it_ended(
    ended: Action, guests: int | None, text: str, capsys: Captured
) -> None:
    ActionLines(Console()).ended(ended, guests)
    assert capsys.readouterr().err == text


def test_as_json_a_line_is_a_line_and_the_action_the_last(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    shown = ActionJson(Console())
    shown.line(line("text", guest="web"))
    shown.ended(action(ActionState.SUCCEEDED))
    first, last = [json.loads(each) for each in capfdbinary.readouterr().out.splitlines()]
    assert first == {"sequence": 1, "time": at(0), "level": "info", "text": "text", "guest": "web"}
    assert (last["command"], last["state"]) == ("up", "succeeded")


def test_of_a_command_only_its_output_is_data(capsys: Captured) -> None:
    shown = ActionOutput(Console())
    for level in Level:
        shown.line(line(f"{level} text", level, guest="web"))
    captured = capsys.readouterr()
    assert captured.out == "output text\n"
    assert captured.err == "warning: warning text\nerror: error text\n"


def test_without_a_terminal_nothing_is_counted(capsys: Captured) -> None:
    """Thousands of steps may run at a time, and each that ends is reported."""

    class Untouched(tuple[Step, ...]):
        __slots__ = ()

        def __iter__(self) -> NoReturn:
            raise AssertionError

    shown = ActionLines(Console(), totals={"start guests": (3, "guest")})
    shown.steps([step("boot", guest="web")], Untouched([step("boot", StepState.RUNNING, guest="db")]))
    assert "web: boot" in capsys.readouterr().err


def test_a_terminal_shows_how_many_of_how_many(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    shown = ActionLines(Console(colour=False), totals={"guests": (3, "guest"), "setup": (1, "script")})

    def step_of(stage: str, name: str, guest: str, state: StepState) -> Step:
        ended = None if state is StepState.RUNNING else at(1)
        return Step(name=name, stage=stage, state=state, started=at(0), ended=ended, guest=guest)

    def status() -> str:
        return capsys.readouterr().err.rpartition("\r")[2].rpartition(",")[0]

    started = step_of("guests", "start:web", "web", StepState.DONE)
    shown.steps([started], [step_of("guests", "wait:web", "web", StepState.RUNNING)])
    assert status() == "guests: 0 of 3 guests: wait web"
    both = [step_of("guests", "wait:web", "web", StepState.DONE), started]
    shown.steps(both, [step_of("guests", "wait:db", "db", StepState.RUNNING)])
    assert status() == "guests: 1 of 3 guests: wait db"
    shown.steps([], [step_of("setup", "setup:web:a.sh", "web", StepState.RUNNING)])
    assert status() == "setup: 0 of 1 script: setup web a.sh"
    shown.steps([], [step_of("network", "links", "web", StepState.RUNNING)])
    assert status() == "network: web: links"
