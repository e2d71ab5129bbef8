"""When the server's garbage collector runs."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from kvmcompose.server import collector


class _Node:
    """A cycle of one object: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """Set the collector up as a server does, and note the generations that it collects."""
    before, enabled = gc.get_threshold(), gc.isenabled()
    gc.collect()
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    collector.configure()
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.set_threshold(*before)
    gc.unfreeze()
    if not enabled:
        gc.disable()


def test_no_collection_stops_the_threads_while_thousands_of_guests_are_worked_on(
    collections: list[int],
) -> None:
    kept: list[list[int]] = [[] for _ in range(500_000)]
    assert collections == []
    assert len(kept) == 500_000


def test_a_server_that_never_rests_does_not_run_out_of_memory(collections: list[int]) -> None:
    gone = weakref.ref(_Node())
    kept: list[list[int]] = [[] for _ in range(1_100_000)]
    assert collections == [0]
    assert gone() is None
    assert len(kept) == 1_100_000


def test_what_has_become_garbage_is_freed_when_the_server_rests(
    collections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_LOOK_SECONDS", 0.01)
    rests = False
    gone = weakref.ref(_Node())
    kept: list[list[int]] = [[] for _ in range(20_000)]

    async def serve() -> None:
        nonlocal rests
        collecting = asyncio.create_task(collector.collect_at_rest(lambda: rests))
        await asyncio.sleep(0.1)
        assert gone() is not None
        assert collections == []
        rests = True
        await asyncio.sleep(0.1)
        assert gone() is None
        assert collections == [2]  # and none while nothing has been done since
        collecting.cancel()
        with suppress(asyncio.CancelledError):
            await collecting

    asyncio.run(serve())
    assert len(kept) == 20_000
