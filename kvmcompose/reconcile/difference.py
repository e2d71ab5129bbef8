"""The difference between wanted resources and those that exist. Pure: nothing here can change anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from kvmcompose.core.resource import STOPPING, Change, Found, Reason, ReasonCode, Ref, Resource, Verb

#: States of what belongs to a guest in which it is on.
_ON = ("running", "paused", "pmsuspended")

#: What the user wants to be done with a resource, and how it was asked for.
Asked = tuple[Verb, str]
#: The pure part of a provider: the change that makes a resource what it should be, None if it is.
Compare = Callable[[Resource, Found], Change | None]


def difference(
    wanted: Iterable[Resource],
    found: Iterable[Found],
    compare: Mapping[str, Compare],
    *,
    earlier: Callable[[], Mapping[Ref, Any]] = dict,
    lost_with_needs: Collection[str] = (),
    lost_when_replaced: Collection[str] = (),
    renewing: Collection[str] = (),
    restart: Collection[str] = (),
    asked: Mapping[Ref, Asked] = MappingProxyType({}),
    no_waiting: Collection[str] = (),
) -> tuple[Change, ...]:
    """Return the changes: those to wanted resources in their order, then removals.

    ``compare`` is by kind. ``earlier`` returns the resources that were brought up before, with their
    specifications: what differs from one that has not changed since is repaired. A resource that exists on
    another host than it is wanted on is moved. One of a kind in ``lost_with_needs`` does not outlive what it
    needs, one of a kind in ``lost_when_replaced`` only its restart. What needs one of a kind in ``renewing``
    is replaced with it, and so on. The guests in ``restart`` are restarted, if they are on. What is
    ``asked`` for is done, whether something differs or not. For the kinds in ``no_waiting`` no change is
    pending.
    """
    there = {each.ref: each for each in found}
    desired = {each.ref: each for each in wanted}
    elsewhere = {(ref.kind, ref.name): each for ref, each in there.items() if ref not in desired}
    changes: list[Change] = []
    stopped: set[Ref] = set()
    replaced: set[Ref] = set()
    renewed: set[Ref] = set()
    for ref, resource in desired.items():
        known = there.pop(ref, None)
        moving = elsewhere.pop((ref.kind, ref.name), None) if known is None and ref.host else None
        change: Change | None
        if ref in asked:
            change = _asked(resource, known, *asked[ref])
        elif known is not None:
            lost = ref.kind in lost_with_needs and not stopped.isdisjoint(resource.needs)
            with_it = () if lost else renewed.intersection(resource.needs)
            if not with_it and ref.kind in lost_when_replaced:
                lost = lost or not replaced.isdisjoint(resource.needs)
            change = _of_existing(
                resource, known, compare[ref.kind], earlier, restart=restart, lost=lost, renewed=with_it
            )
            renewed.update([ref] if with_it else ())
        elif moving is not None:
            del there[moving.ref]
            change = _move(resource, moving)
        else:
            change = _create(resource, earlier)
        if change is None:
            continue
        change = msgspec.structs.replace(change, pending=change.pending and ref.kind not in no_waiting)
        changes.append(change)
        if change.verb in STOPPING and not change.pending:
            stopped.add(ref)
            replaced.update([ref] if change.verb is Verb.REPLACE else ())
        if ref.kind in renewing and not change.pending:
            renewed.add(ref)
    changes += (
        Change(verb=Verb.REMOVE, ref=ref, reasons=(Reason(ReasonCode.UNWANTED),), found=each)
        for ref, each in there.items()
    )
    return tuple(changes)


def _asked(wanted: Resource, found: Found | None, verb: Verb, why: str) -> Change:
    reasons = (Reason(ReasonCode.ASKED, why),)
    verb = verb if found is not None else Verb.CREATE
    return Change(verb=verb, ref=wanted.ref, reasons=reasons, wanted=wanted, found=found)


def _restart(wanted: Resource, found: Found, change: Change | None) -> Change:
    """Return a restart that was asked for; what would have changed alive changes with it."""
    reasons = change.reasons if change is not None and not change.pending else ()
    asked = Reason(ReasonCode.ASKED, "restart")
    return Change(verb=Verb.RESTART, ref=wanted.ref, reasons=(asked, *reasons), wanted=wanted, found=found)


def _of_existing(
    wanted: Resource,
    found: Found,
    compare: Compare,
    earlier: Callable[[], Mapping[Ref, Any]],
    *,
    restart: Collection[str],
    lost: bool,
    renewed: Collection[Ref],
) -> Change | None:
    """Return the change to what exists. It is ``lost`` with what it needs, or ``renewed`` with these."""
    if lost:
        return Change(verb=Verb.CREATE, ref=wanted.ref, reasons=(Reason(ReasonCode.NEEDED),), wanted=wanted)
    if renewed:
        names = sorted(f"{each.kind.replace('-', ' ')} {each.name}" for each in renewed)
        reasons = tuple(Reason(ReasonCode.CHANGED, name) for name in names)
        return Change(verb=Verb.REPLACE, ref=wanted.ref, reasons=reasons, wanted=wanted, found=found)
    change = compare(wanted, found)
    if wanted.guest in restart and found.state in _ON:
        return _restart(wanted, found, change)
    if change is not None and _is_repair(change, earlier):
        return msgspec.structs.replace(change, verb=Verb.REPAIR)
    return change


def _is_repair(change: Change, earlier: Callable[[], Mapping[Ref, Any]]) -> bool:
    """Return whether a change undoes what was changed outside: what is wanted is what was brought up."""
    if change.verb is not Verb.UPDATE or change.pending or change.wanted is None:
        return False
    spec = change.wanted.spec
    return spec is not None and earlier().get(change.ref) == spec


def _create(wanted: Resource, earlier: Callable[[], Mapping[Ref, Any]]) -> Change:
    gone = wanted.ref in earlier()
    reason = Reason(ReasonCode.MISSING if gone else ReasonCode.NEW)
    return Change(verb=Verb.REPAIR if gone else Verb.CREATE, ref=wanted.ref, reasons=(reason,), wanted=wanted)


def _move(wanted: Resource, found: Found) -> Change:
    reason = Reason(ReasonCode.CHANGED, "host", found.ref.host, wanted.ref.host)
    return Change(verb=Verb.MOVE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)
