"""How much of something has been sent, in words."""

from __future__ import annotations

import time

from kvmcompose.server.action_log import RunningStep

#: How often the progress of a large transfer is reported, in seconds.
_REPORT_SECONDS = 5.0


def mib(size: int) -> str:
    """Return a size in bytes for people."""
    return f"{size / 2**20:.1f} MiB"


class Progress:
    """Reports in a step how much of a transfer has been done: call it with each count of bytes."""

    def __init__(self, step: RunningStep, total: int) -> None:
        self._step = step
        self._total = total
        self._began = self._reported = time.monotonic()
        #: The bytes that were sent until now.
        self.sent = 0

    def __call__(self, count: int) -> None:
        """Count bytes that were sent."""
        self.sent += count
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self._reported = time.monotonic()
            self._step.say(f"{mib(self.sent)} of {mib(self._total)}")

    def end(self, name: str) -> None:
        """Report what was sent; nothing where nothing had to be."""
        if self.sent:
            self._step.say(f"{name}: {mib(self.sent)} sent in {time.monotonic() - self._began:.1f} s")
