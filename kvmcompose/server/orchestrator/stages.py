"""Running steps: several at a time, each one noted, none cut off at a point from which nothing goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from kvmcompose.server.action_log import StepFailedError

Job = Callable[[], Awaitable[None]]
_T = TypeVar("_T")


async def together(jobs: Sequence[Job], *, limit: int) -> list[bool]:
    """Run all jobs, at most ``limit`` at a time; whether each one succeeded.

    One that fails does not stop the others. When cancelled, all are, and have ended when this returns.
    """
    errors: list[Exception | None] = [None] * len(jobs)
    waiting = iter(enumerate(jobs))

    async def work() -> None:
        for number, job in waiting:
            try:
                await job()
            except Exception as error:  # noqa: BLE001 (raised when all have ended)
                errors[number] = error

    # no task for each job: thousands that begin to wait at once would hold the event loop
    tasks = [asyncio.create_task(work()) for _ in range(min(max(1, limit), len(jobs)))]
    await _all_ended(tasks)
    for task in tasks:
        task.result()
    for error in errors:
        if error is not None and not isinstance(error, StepFailedError):
            raise error
    return [error is None for error in errors]


async def side_by_side(works: Iterable[Awaitable[_T]]) -> list[_T]:
    """Run all at the same time and return their results in order, or raise the first error.

    All have ended when this returns or raises. ``asyncio.gather`` raises at the first error or cancellation
    and leaves the others running.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    await _all_ended(tasks)
    for error in [task.exception() for task in tasks]:
        if error is not None:
            raise error
    return [task.result() for task in tasks]


async def _all_ended(tasks: Sequence[asyncio.Future[_T]]) -> None:
    """Wait until all tasks have ended. When cancelled, cancel them, and raise when they have ended."""
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def shielded(work: Awaitable[_T]) -> _T:
    """Do something to its end even when cancelled meanwhile; the cancellation comes after it.

    For short changes to a host, which are whole or not begun at the boundary of a step.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()  # whatever it was, nobody asks any more
        raise asyncio.CancelledError
    return task.result()
