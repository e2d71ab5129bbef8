"""How much memory a process takes for what somebody else sends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
_SELF = Path("/proc/self")


@contextlib.contextmanager
def growth_below(most: int) -> Iterator[None]:
    """Fail if this process has taken ``most`` MiB or more on top of what it had, at any moment of the block.

    What the block is given must be several times as large: the heap is fragmented by the tests before.
    """
    with contextlib.suppress(OSError):  # a kernel without it: the peak is that of all tests before, too
        (_SELF / "clear_refs").write_text("5")  # proc_pid_clear_refs(5): the peak is what is resident now
    before = _kib("VmRSS")
    yield
    assert (_kib("VmHWM") - before) >> 10 < most


def _kib(field: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"{_SELF}/status has no {field}")
