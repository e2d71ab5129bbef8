"""Keeps clients from filling the log: what they cause by a request is logged a few times a minute only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

#: How many lines with one text are logged in so many seconds, and of how many texts that is known.
MOST_LINES, _SECONDS, _TEXTS = 20, 60.0, 100


class RareLines(logging.Filter):
    """Lets a few lines of each text pass, whatever their parameters; a later one tells how many did not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` returns seconds."""
        super().__init__()
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is logged."""
        text, now = str(record.msg), self._clock()
        seen = self._seen.get(text)
        if seen is None:
            if len(self._seen) >= _TEXTS:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[text] = _Seen(now)
        if now - seen.since >= _SECONDS:
            seen.since, seen.lines = now, 0
        seen.lines += 1
        if seen.lines > MOST_LINES:
            seen.left_out += 1
            return False
        if seen.left_out > 0:
            record.msg = f"{text} (and {seen.left_out} more since the last such line)"
            seen.left_out = 0
        return True


class _Seen:
    """How many lines there were since a moment, and how many were left out before the next one."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.lines = self.left_out = 0
