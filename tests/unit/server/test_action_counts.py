"""How ended actions are counted."""

from __future__ import annotations

from kvmcompose.server.action_counts import BOUNDS, ActionCounts


def test_durations_are_counted_up_to_their_bound() -> None:
    counts = ActionCounts()
    for seconds in (0.5, 1.0, 1.5, 99999.0):
        counts.add("lab", "up", "succeeded", seconds)
    counts.add("lab", "up", "refused", 0.0)
    ended = counts.of("lab")["up"]
    assert ended.counts == [3, 1, *[0] * (len(BOUNDS) - 2), 1]
    assert ended.seconds == 0.5 + 1.0 + 1.5 + 99999.0
    assert ended.results == {"succeeded": 4, "refused": 1}


def test_those_of_a_removed_deployment_are_forgotten() -> None:
    counts = ActionCounts()
    counts.add("lab", "up", "failed", 1)
    counts.add("other", "up", "failed", 1)
    counts.forget("lab")
    counts.forget("never-there")
    assert counts.of("lab") == {}
    assert list(counts.of("other")) == ["up"]
