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
def full() -> Iterator[list[int]]:
    """Set the collector up as a server does, and count full collections."""
    before, enabled = gc.get_threshold(), gc.isenabled()
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            found.append(info["collected"])

    collector.configure()
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.set_threshold(*before)
    gc.unfreeze()
    if not enabled:
        gc.disable()


def test_no_full_collection_stops_the_threads_while_thousands_of_guests_are_worked_on(
    full: list[int],
) -> None:
    kept: list[list[int]] = [[] for _ in range(1_500_000)]
    assert full == []
    assert len(kept) == 1_500_000
    assert gc.get_count()[2] > 0  # the frequent collections have run


def test_what_has_become_garbage_is_freed_when_the_server_rests(
    full: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_LOOK_SECONDS", 0.01)
    rests = False
    node = _Node()
    gone = weakref.ref(node)
    gc.collect(1)  # it lives long, and only a full collection looks at it
    del node

    async def serve() -> None:
        nonlocal rests
        collecting = asyncio.create_task(collector.collect_at_rest(lambda: rests))
        await asyncio.sleep(0.1)
        assert gone() is not None
        assert full == []
        rests = True
        await asyncio.sleep(0.1)
        assert gone() is None
        assert len(full) == 1  # and none while nothing has been done since
        collecting.cancel()
        with suppress(asyncio.CancelledError):
            await collecting

    asyncio.run(serve())
