"""Work that runs side by side has ended, all of it, when its caller goes on."""

from __future__ import annotations

import asyncio

import pytest

from kvmcompose.server.orchestrator.stages import side_by_side


class Work:
    """Takes until it is cancelled, and some turns of the loop more to end."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self.ended = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(self._turns):
                await asyncio.sleep(0)
            self.ended = True


def test_results_are_in_order() -> None:
    async def later(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(side_by_side(later(turns) for turns in (3, 1, 2))) == [3, 1, 2]
    assert asyncio.run(side_by_side(())) == []


def test_when_cancelled_the_slowest_has_ended_too() -> None:
    works = [Work(turns) for turns in (0, 5, 1)]

    async def scenario() -> None:
        task = asyncio.create_task(side_by_side(work.run() for work in works))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [work.ended for work in works] == [True, True, True]

    asyncio.run(scenario())


def test_an_error_leaves_nothing_running() -> None:
    done: list[str] = []

    async def fails() -> None:
        raise ZeroDivisionError

    async def goes_on() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        done.append("done")

    with pytest.raises(ZeroDivisionError):
        asyncio.run(side_by_side([fails(), goes_on(), fails()]))
    assert done == ["done"]
