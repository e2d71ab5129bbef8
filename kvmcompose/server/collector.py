"""When the garbage collector runs. A full collection stops all threads, and with them all requests.

Of thousands of guests it takes half a second, and finds next to nothing: what actions make has no cycles. So
full collections are left to moments in which the server has nothing to do.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

#: Thresholds of the collector. The first two bound how much one of the frequent collections looks at. The
#: last is for a server that never rests: so many collections of the middle generation bring about a full one.
_THRESHOLDS = (10_000, 2, 1_000)
#: How often is looked whether the server rests, in seconds.
_LOOK_SECONDS = 1.0


def configure() -> None:
    """Set the collector up for a server."""
    gc.freeze()  # what is imported stays: the collector need not look at it again and again
    gc.set_threshold(*_THRESHOLDS)
    gc.enable()  # off in commands, which end before cycles pile up


async def collect_at_rest(rests: Callable[[], bool]) -> None:
    """Collect everything whenever the server has worked, and rests. Never returns."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        _young, _middle, worked = gc.get_count()
        if worked and rests():
            gc.collect()
