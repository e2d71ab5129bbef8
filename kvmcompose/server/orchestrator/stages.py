"""Running steps: several at a time, each one noted, none cut off at a point from which nothing goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

from kvmcompose.server.action_log import StepFailedError

Job = Callable[[], Awaitable[None]]
_T = TypeVar("_T")
#: Jobs that begin in one round of the event loop. Between two rounds requests are answered.
_BEGIN_AT_ONCE = 16


class _Turns:
    """Lets jobs begin a few at a time: each does some milliseconds of work before it waits for something."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._next)
        await turn

    def _next(self) -> None:
        for _ in range(min(_BEGIN_AT_ONCE, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)


#: Those of all actions together, by event loop.
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


async def together(jobs: Sequence[Job], *, limit: int) -> list[bool]:
    """Run all jobs, at most ``limit`` at a time; whether each one succeeded.

    One that fails does not stop the others. When cancelled, all are, and have ended when this returns.
    """
    errors: list[Exception | None] = [None] * len(jobs)
    waiting = iter(enumerate(jobs))
    turns = _turns.setdefault(asyncio.get_running_loop(), _Turns())

    async def work() -> None:
        for number, job in waiting:
            try:
                await turns.take()
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
