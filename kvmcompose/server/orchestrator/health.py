"""Whether guests with a ``healthcheck`` are healthy: what was seen last, and looks at those that are due.

A guest is asked at most once in its interval, however many clients want to know, and only so many guests of
an owner at a time. What was seen is kept in ``Context.health``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import Instance
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.health_memory import HealthSeen
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
#: A check that is this many intervals old tells nothing of how often the next one has failed in a row.
_OLD = 3.0


async def look(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, instance: Instance
) -> HealthSeen:
    """Return the health of a guest that runs and has a healthcheck."""
    check = guest.state.healthcheck
    assert check is not None  # noqa: S101 (see above)
    key = context.project, guest.state.identity
    last = context.health.seen.get(key)
    if last is not None and (last.boot, last.check) != (instance.boot, check):
        last = None
    if last is not None and time.monotonic() - last.at < check.interval:
        return last
    if key not in context.health.looks:
        looking = asyncio.ensure_future(_look(context, testbed, guest, instance, last))
        context.health.looks[key] = looking
        looking.add_done_callback(lambda _: context.health.looks.pop(key, None))
    return await asyncio.shield(context.health.looks[key])


async def _look(
    context: Context,
    testbed: LoadedTestbed,
    guest: LoadedGuest,
    instance: Instance,
    last: HealthSeen | None,
) -> HealthSeen:
    """Check a guest: once where it is checked regularly, otherwise until it is known how it is."""
    check = guest.state.healthcheck
    assert check is not None  # noqa: S101 (see look)
    regular = last is not None and time.monotonic() - last.at < _OLD * check.interval
    failures = last.failures if last is not None and regular else 0
    is_new = instance.uptime is not None and instance.uptime < check.start_period
    end = time.monotonic() + check.timeout
    async with context.health.places(context.owner.uid):
        while True:
            why = await attempt(context, testbed, guest, max(0.1, end - time.monotonic()))
            failures = failures + 1 if why else 0
            once = regular or is_new or not why or failures >= check.retries
            if once or time.monotonic() >= end:
                break
    if not why:
        state = HEALTHY
    elif is_new and (last is None or last.state == STARTING):
        state, failures = STARTING, 0
    elif regular and failures < check.retries and last is not None:
        state = last.state
    else:
        state = UNHEALTHY
    seen = HealthSeen(
        state=state, why=why, failures=failures, boot=instance.boot, check=check, at=time.monotonic()
    )
    context.health.seen[context.project, guest.state.identity] = seen
    return seen


async def wait(
    context: Context,
    testbed: LoadedTestbed,
    guest: LoadedGuest,
    on_failure: Callable[[str], None],
) -> str:
    """Check a guest until it is healthy, and return ""; or why it is not when its time is over.

    That time is its start period, and the intervals of as many checks as may fail.
    """
    check = guest.state.healthcheck
    assert check is not None  # noqa: S101 (see look)
    context.health.seen.pop((context.project, guest.state.identity), None)
    end = time.monotonic() + check.start_period + check.retries * check.interval
    pause, said = min(0.25, check.interval), ""
    while why := await attempt(context, testbed, guest, check.timeout):
        if why != said:
            on_failure(why)
            said = why
        left = end - time.monotonic()
        if left <= 0:
            return why
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, check.interval, 2.0)
    return ""


async def attempt(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, seconds: float) -> str:
    """Check a guest once, and return why it is not healthy; "" if it is."""
    try:
        return await runtime_of(guest).check_health(context, testbed, guest, seconds)
    except KvmComposeError as error:
        return error.message
