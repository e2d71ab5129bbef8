"""What a plan costs."""

from __future__ import annotations

from kvmcompose.core.deployment import Step, StepState
from kvmcompose.server.orchestrator.price import durations


def step(name: str, began: int, ended: int) -> Step:
    def at(second: int) -> str:
        return f"2026-01-01T00:00:{second:02}Z"

    stage, done = "guests", StepState.DONE
    return Step(name=name, stage=stage, state=done, started=at(began), ended=at(ended))


def test_a_wait_for_a_guest_that_was_up_already_is_no_boot() -> None:
    latest_first = [
        step("wait:web", 40, 41),
        step("update:web", 39, 40),
        step("wait:web", 22, 34),
        step("start:web", 20, 22),
        step("wait:web", 2, 19),
        step("start:web", 1, 2),
    ]
    assert durations(latest_first) == {"wait:web": 12.0, "update:web": 1.0, "start:web": 2.0}
