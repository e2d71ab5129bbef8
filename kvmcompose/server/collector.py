"""When the garbage collector runs. A collection stops all threads, and with them all requests.

For thousands of guests a full one takes half a second, one of what is new a quarter, and they find next to
nothing: what actions make has no cycles. So they are left to moments in which the server has nothing to do.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

#: With so many more objects than after the last collection the next one does not wait: a server that never
#: rests must not run out of memory. An ``up`` of 10,000 guests has less than half of it.
_MOST_NEW = 1_000_000
#: With so many a collection at rest is worth it.
_SOME_NEW = 10_000
#: How often is looked whether the server rests, in seconds.
_LOOK_SECONDS = 1.0


def configure() -> None:
    """Set the collector up for a server."""
    gc.freeze()  # what is imported stays: the collector need not look at it again and again
    gc.set_threshold(_MOST_NEW, 1, 1)
    gc.enable()  # off in commands, which end before cycles pile up


async def collect_at_rest(rests: Callable[[], bool]) -> None:
    """Collect everything whenever the server has worked, and rests. Never returns."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if gc.get_count()[0] >= _SOME_NEW and rests():
            gc.collect()
