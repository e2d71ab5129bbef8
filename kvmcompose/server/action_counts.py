"""Counts the actions that have ended since the server started, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

#: Upper bounds of the durations that are counted together, in seconds.
BOUNDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)


class Ended:
    """The actions of one command and deployment that have ended."""

    def __init__(self) -> None:
        #: By ``ActionState``, or ``refused``.
        self.results: Counter[str] = Counter()
        #: How many took at most each of ``BOUNDS`` and more than the one before; the last: longer than all.
        self.counts = [0] * (len(BOUNDS) + 1)
        #: How long all of them took together.
        self.seconds = 0.0


class ActionCounts:
    """The actions that have ended."""

    def __init__(self) -> None:
        self._ended: dict[str, dict[str, Ended]] = {}

    def add(self, deployment: str, command: str, result: str, seconds: float) -> None:
        """Count an action."""
        ended = self._ended.setdefault(deployment, {}).setdefault(command, Ended())
        ended.results[result] += 1
        ended.counts[bisect_left(BOUNDS, seconds)] += 1
        ended.seconds += seconds

    def of(self, deployment: str) -> dict[str, Ended]:
        """Return those of a deployment, by command."""
        return self._ended.get(deployment, {})

    def forget(self, deployment: str) -> None:
        """Forget those of a deployment that was removed."""
        self._ended.pop(deployment, None)
