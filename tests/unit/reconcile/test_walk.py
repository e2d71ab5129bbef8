"""The walk: what goes, goes first and in reverse order, then what comes; failures stop what needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from kvmcompose.core.resource import Change, Found, Ref, Resource, Verb
from kvmcompose.reconcile.walk import Walk, in_order, needing

#: Kinds from the ground up, each with its stage.
STAGES = {"floor": "building", "wall": "building", "lamp": "living"}


class Calls:
    """What was done, in order. ``failing`` calls fail; ``most`` is how many ran at a time."""

    def __init__(self, *failing: str) -> None:
        self.done: list[str] = []
        self.failing = failing
        self.most = 0
        self._running = 0
        self.begun = asyncio.Event()

    async def make(self, words: str) -> None:
        self._running += 1
        self.most = max(self.most, self._running)
        await asyncio.sleep(0)
        self._running -= 1
        self.done.append(words)
        self.begun.set()
        if words in self.failing:
            raise ValueError(words)


class Toy:
    """A kind of this test."""

    def __init__(self, calls: Calls, *, batch: bool = False, limit: int = 1, at_once: bool = False) -> None:
        self.BATCH = batch
        self.AT_ONCE = at_once
        self._calls = calls
        self._limit = limit

    def limit(self, host: str, *, removing: bool) -> int:
        return self._limit

    async def apply(self, changes: Sequence[Change]) -> None:
        await self._calls.make(f"+{' '.join(each.ref.name for each in changes)}")

    async def remove(self, changes: Sequence[Change]) -> None:
        await self._calls.make(f"-{' '.join(each.ref.name for each in changes)}")


async def together(jobs: Sequence[Callable[[], Awaitable[None]]], limit: int) -> list[bool]:
    places = asyncio.Semaphore(limit)

    async def run(job: Callable[[], Awaitable[None]]) -> bool:
        async with places:
            try:
                await job()
            except ValueError:
                return False
            return True

    return list(await asyncio.gather(*map(run, jobs)))


def change(kind: str, name: str, verb: Verb, *, host: str = "one", needs: Sequence[Ref] = ()) -> Change:
    ref = Ref(kind, name, host)
    wanted = None if verb is Verb.REMOVE else Resource(ref=ref, spec=None, needs=tuple(needs))
    return Change(verb=verb, ref=ref, wanted=wanted, found=None if verb is Verb.CREATE else Found(ref=ref))


def walk(
    calls: Calls, *changes: Change, keep_going: bool = False, batch: bool = False, limit: int = 1
) -> tuple[bool, set[str]]:
    """Carry changes out; return whether all were, and the names of those that failed."""
    kinds = {kind: Toy(calls, batch=batch, limit=limit) for kind in STAGES}
    failed: set[Ref] = set()
    good = asyncio.run(Walk(changes, kinds, STAGES, together, keep_going=keep_going, failed=failed).run())
    return good, {ref.name for ref in failed}


def test_what_goes_goes_first_and_in_reverse_order() -> None:
    calls = Calls()
    changes = [
        change("lamp", "new", Verb.CREATE),
        change("floor", "old floor", Verb.REMOVE),
        change("lamp", "lamp", Verb.RESTART),
        change("wall", "wall", Verb.UPDATE),
        change("floor", "floor", Verb.REPLACE),
        change("lamp", "old lamp", Verb.REMOVE),
    ]
    assert walk(calls, *changes) == (True, set())
    assert calls.done == [
        *("-lamp", "-old lamp", "-old floor", "-floor"),
        *("+floor", "+wall", "+new", "+lamp"),
    ]


def test_what_changes_at_once_is_removed_with_what_comes() -> None:
    calls = Calls()
    kinds = {kind: Toy(calls, batch=True, at_once=kind == "wall") for kind in STAGES}
    changes = [
        change("lamp", "old lamp", Verb.REMOVE),
        change("wall", "old wall", Verb.REMOVE),
        change("wall", "wall", Verb.CREATE),
        change("floor", "floor", Verb.CREATE),
    ]
    assert asyncio.run(Walk(changes, kinds, STAGES, together, keep_going=False, failed=set()).run())
    assert calls.done == ["-old lamp", "+floor", "+wall old wall"]
    calls.done.clear()
    assert asyncio.run(Walk(changes[:2], kinds, STAGES, together, keep_going=False, failed=set()).run())
    assert calls.done == ["-old lamp", "-old wall"]


def test_what_only_changes_is_not_taken_away() -> None:
    calls = Calls()
    verbs = (Verb.CREATE, Verb.UPDATE, Verb.REPAIR)
    walk(calls, *(change("wall", verb.value, verb) for verb in verbs))
    assert calls.done == ["+create", "+update", "+repair"]


def test_what_is_moved_leaves_its_old_host_and_comes_on_the_new_one() -> None:
    calls = Calls()
    seen: list[tuple[str, str]] = []

    class Mover(Toy):
        def limit(self, host: str, *, removing: bool) -> int:
            seen.append((host, "from" if removing else "to"))
            return 1

    ref, before = Ref("lamp", "a", "two"), Ref("lamp", "a", "one")
    moved = Change(verb=Verb.MOVE, ref=ref, wanted=Resource(ref=ref, spec=None), found=Found(ref=before))
    kinds = {"lamp": Mover(calls)}
    assert asyncio.run(Walk([moved], kinds, STAGES, together, keep_going=False, failed=set()).run())
    assert seen == [("one", "from"), ("two", "to")]


def test_after_a_failure_its_stage_is_ended_and_no_other_begun() -> None:
    calls = Calls("+wall")
    floor, wall = change("floor", "floor", Verb.CREATE), change("wall", "wall", Verb.CREATE)
    other, lamp = change("wall", "other", Verb.CREATE), change("lamp", "lamp", Verb.CREATE)
    assert walk(calls, floor, wall, other, lamp) == (False, {"wall"})
    assert calls.done == ["+floor", "+wall", "+other"]


def test_with_keep_going_all_is_done_but_what_needs_what_failed() -> None:
    calls = Calls("+floor")
    floor = change("floor", "floor", Verb.CREATE)
    wall = change("wall", "wall", Verb.CREATE, needs=[floor.ref])
    changes = [
        floor,
        wall,
        change("lamp", "on the wall", Verb.CREATE, needs=[wall.ref]),
        change("lamp", "hanging", Verb.CREATE),
    ]
    assert walk(calls, *changes, keep_going=True) == (False, {"floor", "wall", "on the wall"})
    assert calls.done == ["+floor", "+hanging"]


def test_what_is_needed_in_the_same_stage_blocks_without_keep_going_too() -> None:
    calls = Calls("+floor")
    floor = change("floor", "floor", Verb.CREATE)
    assert walk(calls, floor, change("wall", "wall", Verb.CREATE, needs=[floor.ref])) == (
        False,
        {"floor", "wall"},
    )
    assert calls.done == ["+floor"]


@pytest.mark.parametrize("keep_going", [False, True])
def test_where_something_did_not_go_what_is_below_it_stays(keep_going: bool) -> None:
    calls = Calls("-lamp")
    changes = [
        change("floor", "floor", Verb.REMOVE),
        change("lamp", "lamp", Verb.REMOVE),
        change("lamp", "other lamp", Verb.REMOVE),
        change("floor", "elsewhere", Verb.REMOVE, host="two"),
        change("wall", "new", Verb.CREATE),
    ]
    assert walk(calls, *changes, keep_going=keep_going) == (False, {"lamp"})
    assert sorted(calls.done) == ["-elsewhere", "-lamp", "-other lamp"]


def test_a_batch_is_one_call_for_each_host_and_fails_as_a_whole() -> None:
    calls = Calls("+a b")
    changes = [change("wall", name, Verb.CREATE) for name in "ab"]
    changes.append(change("wall", "c", Verb.CREATE, host="two"))
    assert walk(calls, *changes, batch=True) == (False, {"a", "b"})
    assert sorted(calls.done) == ["+a b", "+c"]


def test_as_many_calls_at_a_time_on_each_host_as_its_limit() -> None:
    calls = Calls()
    changes = [change("wall", f"{host}{n}", Verb.CREATE, host=host) for host in "xy" for n in range(5)]
    walk(calls, *changes, limit=2)
    assert len(calls.done) == len(changes)
    assert calls.most == 4


def test_what_failed_before_holds_back_what_needs_it_and_nothing_else() -> None:
    calls, lost = Calls(), Ref("floor", "lost", "one")
    changes = [
        change("lamp", "on it", Verb.REPLACE, needs=[Ref("wall", "upper", "one")]),
        change("wall", "upper", Verb.REPLACE, needs=[lost]),
        change("lamp", "other", Verb.REPLACE),
    ]
    assert {ref.name for ref in needing(changes, {lost})} == {"upper", "on it"}
    kinds = {kind: Toy(calls) for kind in STAGES}
    failed = {lost}
    walk = Walk(changes[2:], kinds, STAGES, together, keep_going=True, failed=failed)
    assert not asyncio.run(walk.run())
    assert calls.done == ["-other", "+other"]
    assert failed == {lost}


def test_cancelled_it_begins_nothing_more() -> None:
    calls = Calls()

    class Slow(Toy):
        async def apply(self, changes: Sequence[Change]) -> None:
            await super().apply(changes)
            await asyncio.sleep(60)

    kinds = {"floor": Slow(calls), "lamp": Toy(calls)}
    changes = [change("floor", "floor", Verb.CREATE), change("lamp", "lamp", Verb.CREATE)]
    going = Walk(changes, kinds, STAGES, together, keep_going=True, failed=set())

    async def run() -> None:
        task = asyncio.create_task(going.run())
        await calls.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert calls.done == ["+floor"]


def test_kinds_are_in_the_order_of_what_they_need() -> None:
    after = {"lamp": ["wall", "window"], "wall": ["floor"], "floor": []}
    assert in_order(after) == ["floor", "wall", "lamp"]


def test_what_is_needed_comes_first_within_a_kind() -> None:
    calls = Calls()
    changes = [
        change("wall", "upper", Verb.CREATE, needs=[Ref("wall", "middle", "two")]),
        change("wall", "middle", Verb.CREATE, host="two", needs=[Ref("wall", "lower", "one")]),
        change("wall", "lower", Verb.RESTART),
        change("wall", "other", Verb.CREATE),
        change("lamp", "on it", Verb.CREATE, needs=[Ref("wall", "upper", "one")]),
    ]
    assert walk(calls, *changes, limit=9) == (True, set())
    assert calls.done[:2] == ["-lower", "+lower"]
    assert calls.done[2:] == ["+other", "+middle", "+upper", "+on it"]


def test_what_needs_a_later_kind_of_another_waits_for_it_with_all_that_is_on_it() -> None:
    calls = Calls()
    changes = [
        change("floor", "second", Verb.CREATE, needs=[Ref("lamp", "first's", "one")]),
        change("floor", "first", Verb.CREATE),
        *(
            change("lamp", f"{name}'s", Verb.CREATE, needs=[Ref("floor", name, "one")])
            for name in ("first", "second")
        ),
    ]
    assert walk(calls, *changes) == (True, set())
    assert calls.done == ["+first", "+first's", "+second", "+second's"]


@pytest.mark.parametrize("keep_going", [True, False])
def test_what_waits_for_something_that_fails_is_not_begun(*, keep_going: bool) -> None:
    calls = Calls("+first's")
    changes = [
        change("floor", "second", Verb.CREATE, needs=[Ref("lamp", "first's", "one")]),
        change("wall", "second's", Verb.CREATE, needs=[Ref("floor", "second", "one")]),
        change("floor", "first", Verb.CREATE),
        change("lamp", "first's", Verb.CREATE, needs=[Ref("floor", "first", "one")]),
    ]
    good, failed = walk(calls, *changes, keep_going=keep_going)
    assert not good
    assert failed == ({"first's", "second", "second's"} if keep_going else {"first's"})
    assert calls.done == ["+first", "+first's"]


def test_a_batch_takes_what_needs_each_other_in_one_call() -> None:
    calls = Calls()
    changes = [
        change("wall", "upper", Verb.CREATE, needs=[Ref("wall", "lower", "one")]),
        change("wall", "lower", Verb.CREATE),
    ]
    assert walk(calls, *changes, batch=True) == (True, set())
    assert calls.done == ["+upper lower"]


def test_what_needs_each_other_is_made_in_the_order_of_kinds() -> None:
    """The pipeline refuses it; a walk ends all the same."""
    calls = Calls()
    changes = [
        change("lamp", "lamp", Verb.CREATE, needs=[Ref("wall", "wall", "one")]),
        change("wall", "wall", Verb.CREATE, needs=[Ref("lamp", "lamp", "one")]),
        change("floor", "floor", Verb.CREATE),
    ]
    assert walk(calls, *changes) == (True, set())
    assert calls.done == ["+floor", "+wall", "+lamp"]


def test_what_goes_goes_before_what_it_came_after() -> None:
    lamp, shade, wall = Ref("lamp", "lamp", "one"), Ref("lamp", "shade", "one"), Ref("wall", "wall", "one")
    floor = Ref("floor", "floor", "one")
    found = [
        Found(ref=floor),
        # a wall that came after a lamp, which is of a later kind
        Found(ref=wall, after=(lamp,)),
        Found(ref=lamp),
        Found(ref=shade, after=(lamp,)),
    ]
    changes = [Change(verb=Verb.REMOVE, ref=each.ref, found=each) for each in found]
    calls, failed = Calls(), set[Ref]()
    kinds = {name: Toy(calls) for name in STAGES}
    walk = Walk(changes, kinds, STAGES, together, keep_going=False, failed=failed)
    assert asyncio.run(walk.run())
    assert calls.done == ["-shade", "-wall", "-lamp", "-floor"]


def test_what_each_waits_for_the_other_goes_all_the_same() -> None:
    one, two = Ref("lamp", "one", "one"), Ref("lamp", "two", "one")
    found = [Found(ref=one, after=(two,)), Found(ref=two, after=(one,))]
    changes = [Change(verb=Verb.REMOVE, ref=each.ref, found=each) for each in found]
    calls = Calls()
    walk = Walk(changes, {"lamp": Toy(calls)}, STAGES, together, keep_going=False, failed=set())
    assert asyncio.run(walk.run())
    assert sorted(calls.done) == ["-one", "-two"]


@pytest.mark.parametrize("others", [("one", "two"), ("two", "one"), ("two", "three")])
def test_what_waits_for_itself_goes_before_what_is_below_it(others: tuple[str, str]) -> None:
    """A state edited by hand can say so; the walk ends, and the server with it does not hang."""
    floor, *lamps = Ref("floor", "floor", "one"), *(Ref("lamp", name, "one") for name in ("one", "two"))
    found = [
        Found(ref=floor),
        *(Found(ref=ref, after=(Ref("lamp", name, "one"),)) for ref, name in zip(lamps, others, strict=True)),
    ]
    changes = [Change(verb=Verb.REMOVE, ref=each.ref, found=each) for each in found]
    calls = Calls()
    kinds = {name: Toy(calls) for name in STAGES}
    walk = Walk(changes, kinds, STAGES, together, keep_going=False, failed=set())
    assert asyncio.run(walk.run())
    assert sorted(calls.done[:2]) == ["-one", "-two"]
    assert calls.done[2:] == ["-floor"]


def test_what_comes_after_another_waits_for_it_and_is_left_when_that_fails() -> None:
    first, second, third = (Ref("lamp", name, "one") for name in ("first", "second", "third"))
    changes = [
        Change(verb=Verb.CREATE, ref=third, wanted=Resource(ref=third, spec=None, after=(second,))),
        Change(verb=Verb.CREATE, ref=second, wanted=Resource(ref=second, spec=None, after=(first,))),
        Change(verb=Verb.CREATE, ref=first, wanted=Resource(ref=first, spec=None)),
    ]
    calls, failed = Calls(), set[Ref]()
    walk = Walk(changes, {"lamp": Toy(calls, limit=3)}, STAGES, together, keep_going=False, failed=failed)
    assert asyncio.run(walk.run())
    assert calls.done == ["+first", "+second", "+third"]
    calls = Calls("+first")
    walk = Walk(changes, {"lamp": Toy(calls, limit=3)}, STAGES, together, keep_going=True, failed=failed)
    assert not asyncio.run(walk.run())
    assert calls.done == ["+first"]
    assert failed == {first, second, third}
