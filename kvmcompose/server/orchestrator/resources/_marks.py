"""What the server knows of the inside of guests, so that they need not be asked by SSH each time.

It is a mark with a digest: which scripts have run, and that the guest could be logged in to. All of it can be
forgotten; then the guest is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

from kvmcompose.core.commands import Up
from kvmcompose.core.deployable import DeployableGuest
from kvmcompose.core.instance import ON
from kvmcompose.core.resource import Change, Found, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.reconcile.difference import Asked
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.script_records import encode_record, record_of
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.schema import COMPLETE_MARK

#: The kind of the marks with the start of a guest for which the others hold.
_BOOT = "boot"
#: The kinds that a start of their guest makes untrue.
_SINCE_START = ("reachable", "run-scripts")
#: Guests that are worked in at a time, on one host.
_SIDE_BY_SIDE = 16


def wanted(testbed: LoadedTestbed, kind: str, digest_of: Callable[[LoadedGuest], str]) -> Iterator[Resource]:
    """Yield what is wanted in guests; ``digest_of`` is empty for a guest in which nothing is."""
    for guest in testbed.runnable:
        digest = digest_of(guest)
        if digest and testbed.intents.get(guest.name, "running") == "running":
            host = guest.state.testbed_host
            yield Resource(
                ref=Ref(kind, guest.name, host),
                spec=digest,
                needs=(runtime_of(guest).instance(guest), Ref("reachable", guest.name, host)),
                guest=guest.name,
            )


def wanted_scripts(
    testbed: LoadedTestbed, kind: str, scripts_of: Callable[[DeployableGuest], Sequence[str]]
) -> Iterator[Resource]:
    """Yield what is wanted in guests with scripts: that these have run as they are now."""

    def record(guest: LoadedGuest) -> str:
        scripts = scripts_of(guest.run) if guest.run is not None else ()
        return encode_record(record_of(testbed.seed_contents(guest), scripts)) if scripts else ""

    return wanted(testbed, kind, record)


async def observe(
    view: View,
    host: HostDrivers,
    kind: str,
    earlier: Callable[[LoadedTestbed], Iterable[Resource]],
    *,
    since_start: bool = False,
) -> list[Found]:
    """Return what is known of guests of a host that are on.

    What holds ``since_start`` is not known of a guest that was started again by other means.
    """
    there = await view.instances(host)
    on = [each.guest for each in there if each.state in ON]
    if since_start:
        boots = view.marks(_BOOT)
        known = {each.guest: boots.get(each.guest, each.boot) for each in there}
        again = {each.guest for each in there if each.boot and each.boot != known[each.guest]}
        on = [guest for guest in on if guest not in again]
    marks = view.marks(kind)
    unmarked = {each.guest for each in there if not each.made}
    if unmarked and view.deployed is not None and view.marks(COMPLETE_MARK):
        # brought up by version 0.1, which had no marks
        names = view.names
        known = {names.get(each.ref.name, each.ref.name): each.spec for each in earlier(view.deployed)}
        marks = {**marks, **{guest: spec for guest, spec in known.items() if guest in unmarked}}
    return [
        Found(ref=Ref(kind, guest, host.name), spec=marks[guest], guest=guest)
        for guest in on
        if guest in marks
    ]


def asked(options: Up, wanted: Resource) -> Asked | None:
    """Scripts can be run again, and are run in a guest that is recreated."""
    if wanted.guest in options.recreate:
        return Verb.UPDATE, "up --recreate"
    return (Verb.UPDATE, "up --rerun-scripts") if options.reruns(wanted.guest) else None


def note(work: Work, change: Change, mark: str | None = None) -> None:
    """Remember that it is so; with a ``mark``, that it is as that says."""
    assert change.wanted is not None  # noqa: S101 (what is removed is forgotten)
    work.view.put_mark(change.ref.kind, change.ref.name, mark or change.wanted.spec)


async def note_starts(view: View, found: Iterable[Found]) -> None:
    """Remember which start it was after which guests were seen to be ready, and their scripts ran."""
    known = {each.guest for each in found if each.ref.kind in _SINCE_START}
    boots = view.marks(_BOOT)
    for host in view.hosts.values():
        there = await view.instances(host)
        with view.context.store.in_one():
            for each in there:
                if each.guest in known and each.boot and boots.get(each.guest) != each.boot:
                    view.put_mark(_BOOT, each.guest, each.boot)
        await asyncio.sleep(0)  # all of thousands of guests at once would hold the event loop


async def settle(work: Work, found: Sequence[Found]) -> None:
    """Keep what is known of guests that version 0.1 brought up: soon their domains do not show it."""
    marks = {kind: work.view.marks(kind) for kind in {each.ref.kind for each in found}}
    for each in found:
        if each.ref.name not in marks[each.ref.kind]:
            work.view.put_mark(each.ref.kind, each.ref.name, each.spec)


def begin(work: Work, guest: str) -> None:
    """Forget what was true for an earlier start of a guest, which may have been by other means."""
    for kind in (_BOOT, *_SINCE_START):
        work.view.put_mark(kind, guest, None)


def forget(work: Work, changes: Sequence[Change]) -> None:
    """Forget it."""
    for change in changes:
        if not work.is_second(change):
            work.view.put_mark(change.ref.kind, change.ref.name, None)


def limit(work: Work, host: str, *, removing: bool) -> int:  # noqa: ARG001
    """Return how many guests may be worked in at a time."""
    return _SIDE_BY_SIDE
