"""Order between guests (``depends_on``), as an order of the resources that are the guests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from kvmcompose.core.order import Condition
from kvmcompose.core.resource import Found, Ref, Resource
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

#: The kind of the resource that is a condition; that of ``setup_done`` is for guests with set-up scripts.
_KINDS = {Condition.REACHABLE: "reachable", Condition.SETUP_DONE: "set-up", Condition.HEALTHY: "healthy"}


def with_order(testbed: LoadedTestbed, wanted: Iterable[Resource]) -> Iterator[Resource]:
    """Yield resources, each guest after what it depends on.

    One that is to stop comes after those that depend on it and are to stop, too.
    """
    guests = testbed.guests
    stopping = _dependants(testbed) if testbed.intents else {}
    for each in wanted:
        guest = guests.get(each.guest or "")
        if guest is None or not _is_instance(guest, each.ref):
            yield each
            continue
        intent = testbed.intents.get(guest.name, "running")
        if intent == "running":
            after = tuple(
                ref
                for name, condition in guest.state.depends_on.items()
                if name in guests and guests[name].is_started
                for ref in _condition(guests[name], condition)
            )
        else:
            others = stopping.get(guest.name, ())
            after = tuple(_instance(each) for each in others if testbed.intents.get(each.name) == intent)
        yield replace(each, after=after)


def found_with_order(testbeds: Sequence[LoadedTestbed], found: Iterable[Found]) -> Iterator[Found]:
    """Yield what was found, each guest with what it goes before.

    What it depends on is as it was brought up, or as it is built.
    """
    by_age = sorted(testbeds, key=lambda one: one.has_files)  # what was brought up has none
    for each in found:
        name = each.guest or ""
        guest = next((one.guests[name] for one in by_age if name in one.guests), None)
        if guest is None or not guest.state.depends_on or guest.run is None or not _is_kind(guest, each.ref):
            yield each
            continue
        known = [one.guests[name] for one in by_age for name in guest.state.depends_on if name in one.guests]
        yield replace(each, after=tuple(dict.fromkeys(_instance(one) for one in known if one.is_started)))


def _dependants(testbed: LoadedTestbed) -> dict[str, list[LoadedGuest]]:
    """Return the guests that depend on others, by the names of these."""
    found: dict[str, list[LoadedGuest]] = {}
    for guest in testbed.runnable:
        for name in guest.state.depends_on:
            found.setdefault(name, []).append(guest)
    return found


def _is_instance(guest: LoadedGuest, ref: Ref) -> bool:
    return guest.is_started and ref == _instance(guest)


def _is_kind(guest: LoadedGuest, ref: Ref) -> bool:
    """Return whether a resource is the guest, on whichever host it is."""
    return ref.kind == _instance(guest).kind


def _instance(guest: LoadedGuest) -> Ref:
    return runtime_of(guest).instance(guest)


def _condition(guest: LoadedGuest, condition: Condition) -> tuple[Ref, ...]:
    """Return what is there once a condition is met: without set-up scripts, being ready is being set up.

    A guest that nothing waits for is ready when it was started.
    """
    kind = _KINDS.get(condition)
    if kind is None:
        return (_instance(guest),)
    if condition is Condition.SETUP_DONE and (guest.run is None or not guest.run.setup_scripts):
        kind = _KINDS[Condition.REACHABLE]
    return _instance(guest), Ref(kind, guest.name, guest.state.testbed_host)
