"""What would have to change for a testbed to be what is wanted. Looks at hosts, and changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec

from kvmcompose.core.commands import Up
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.names import near_names
from kvmcompose.core.resource import STOPPING, Change, Found, ReasonCode, Ref, Resource, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import RuntimeSilentError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.reconcile.difference import Asked, difference
from kvmcompose.server.orchestrator.order import found_with_order, with_order
from kvmcompose.server.orchestrator.resources import providers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: What a guest is to be after a ``down`` of it alone, until the next ``up``.
TAKEN_DOWN = "absent"

_Seen = TypeVar("_Seen", Change, Found)


class Blind(msgspec.Struct, frozen=True, kw_only=True):
    """What runs guests on a host and did not answer, why, and the guests that nothing is known of."""

    host: str
    error: KvmComposeError
    guests: tuple[str, ...]


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted, what differs, and why hosts did not answer, or what runs guests there (``blind``)."""

    wanted: Sequence[Resource]
    found: Sequence[Found]
    changes: Sequence[Change]
    silent: Mapping[str, KvmComposeError]
    blind: Sequence[Blind]

    @property
    def unseen(self) -> Iterator[tuple[str, KvmComposeError]]:
        """The hosts that did not answer, in whole or in part, and why."""
        yield from self.silent.items()
        yield from ((each.host, each.error) for each in self.blind)


async def plan(
    view: View,
    testbed: LoadedTestbed | None,
    options: Up | None = None,
    *,
    restart: Collection[str] = (),
    renews: bool = True,
) -> Differences:
    """Compare a testbed (None: nothing at all) with what exists.

    ``renews`` is whether guests are replaced with what they are made from. Resources on silent hosts are left
    out, and those of guests that something silent runs; so are files, where the view does not look at them.
    """
    for each in dict.fromkeys([testbed, *view.testbeds]):
        if each is not None:
            await in_thread(each.read_files)
    seen = await _look(view)
    return await in_thread(_compare, view, testbed, options, seen, restart, renews=renews)


def _compare(
    view: View,
    testbed: LoadedTestbed | None,
    options: Up | None,
    look: _Look,
    restart: Collection[str],
    *,
    renews: bool,
) -> Differences:
    """Compare what is wanted with what was found: for thousands of guests it takes a second."""
    silent, blind = look.silent, _blind(view, look)
    unknown = {(each.host, guest) for each in blind for guest in each.guests}
    wanted = [] if testbed is None else wanted_by(testbed)
    wanted = [
        each
        for each in wanted
        if (each.ref.host, each.guest) not in unknown and (each.ref.host, each.ref.kind) not in look.unseen
    ]
    found = [
        each
        for each in found_with_order(view.testbeds, look.found)
        if (each.ref.host, each.guest) not in unknown
    ]
    seen = {
        kind
        for kind, provider in providers().items()
        if (view.files or not provider.LOOKS_AT_FILES) and (view.inside or not provider.LOOKS_INSIDE)
    }
    wanted = [each for each in wanted if each.ref.host not in silent and each.ref.kind in seen]
    changes = difference(
        wanted,
        found,
        {kind: provider.compare for kind, provider in providers().items()},
        earlier=cache(lambda: _earlier(view.deployed)),
        lost_with_needs=[kind for kind, provider in providers().items() if provider.LOST_WITH_NEEDS],
        lost_when_replaced=[kind for kind, provider in providers().items() if provider.ONLY_KNOWN],
        renewing=[kind for kind, provider in providers().items() if provider.RENEWS] if renews else (),
        restart=restart,
        asked=_asked(wanted, options) if options is not None else {},
        no_waiting=[kind for kind, each in providers().items() if getattr(options, each.AGAIN or "-", False)],
    )
    changes = tuple(map(_with_loss, changes))
    return Differences(wanted=wanted, found=found, changes=changes, silent=silent, blind=blind)


def _with_loss(change: Change) -> Change:
    loss = providers()[change.ref.kind].loses(change)
    return change if loss is None else msgspec.structs.replace(change, loss=loss)


def _blind(view: View, look: _Look) -> list[Blind]:
    """Return what runs guests and did not answer, each once."""
    return [
        Blind(
            host=host,
            error=error,
            guests=tuple(
                dict.fromkeys(
                    guest.name
                    for testbed in view.testbeds
                    for guest in testbed.by_host.get(host, ())
                    if guest.run is not None and guest.run.runtime == runtime
                )
            ),
        )
        for (host, runtime), error in look.blind.items()
    ]


def _asked(wanted: Sequence[Resource], options: Up) -> dict[Ref, Asked]:
    answers = {each.ref: providers()[each.ref.kind].asked(options, each) for each in wanted}
    return {ref: answer for ref, answer in answers.items() if answer is not None}


def wanted_by(testbed: LoadedTestbed) -> list[Resource]:
    """Return the resources that a testbed needs, kind by kind, without guests that were taken down alone."""
    found = [each for provider in dict.fromkeys(providers().values()) for each in provider.wanted(testbed)]
    order = {kind: number for number, kind in enumerate(providers())}
    down = {name for name, intent in testbed.intents.items() if intent == TAKEN_DOWN}
    up = [
        each
        for each in (*found, *testbed.resources)
        if each.guest not in down or not providers()[each.ref.kind].RUNS
    ]
    return sorted(with_order(testbed, up), key=lambda each: order[each.ref.kind])


class _Look(msgspec.Struct):
    """What was found on hosts, and what did not answer: hosts, and by host what runs guests there.

    ``unseen`` are the kinds of resources that could not be looked at, each with its host.
    """

    found: list[Found] = msgspec.field(default_factory=list)
    silent: dict[str, KvmComposeError] = msgspec.field(default_factory=dict)
    blind: dict[tuple[str, str], KvmComposeError] = msgspec.field(default_factory=dict)
    unseen: set[tuple[str, str]] = msgspec.field(default_factory=set)


async def _look(view: View) -> _Look:
    """Look for all resources of the project, on all hosts."""
    look = _Look()
    answers = await side_by_side(_of_host(view, host, look) for host in view.hosts.values())
    for name, answer in zip(view.hosts, answers, strict=True):
        if isinstance(answer, KvmComposeError):
            look.silent[name] = answer
        else:
            look.found += answer
    look.blind = {key: error for key, error in view.blind.items() if key[0] not in look.silent}
    return look


async def _of_host(view: View, host: HostDrivers, look: _Look) -> list[Found] | KvmComposeError:
    found: list[Found] = []
    try:
        for provider in dict.fromkeys(providers().values()):
            try:
                found += await provider.observe(view, host)
            except RuntimeSilentError:  # the view knows it
                look.unseen.update((host.name, kind) for kind in provider.KINDS)
    except KvmComposeError as error:
        return error
    return found


def _earlier(deployed: LoadedTestbed | None) -> dict[Ref, Any]:
    wanted: list[Resource] = wanted_by(deployed) if deployed is not None else []
    return {each.ref: each.spec for each in wanted}


def digest_of(changes: Iterable[Change]) -> str:
    """Return what identifies changes and the reasons for them."""
    each = [(change.verb, change.ref, change.reasons) for change in changes]
    return hashlib.sha256(msgspec.json.encode(each, order="deterministic")).hexdigest()


def by_kind(those: Sequence[_Seen]) -> dict[str, list[_Seen]]:
    """Return changes, or what was found, by kind, in their order."""
    found: dict[str, list[_Seen]] = {}
    for each in those:
        found.setdefault(each.ref.kind, []).append(each)
    return found


class Choice(msgspec.Struct, frozen=True):
    """The changes that an action carries out, and those that it leaves."""

    due: Sequence[Change]
    left: Sequence[Change]


def choose(
    changes: Sequence[Change], options: Up, testbed: LoadedTestbed, needed: Collection[str] = ()
) -> Choice:
    """Return which changes an ``up`` with these options carries out.

    Limited to some guests, it also changes those that are ``needed`` by them.
    """
    due: list[Change] = []
    left: list[Change] = []
    scope = _scope(options, testbed, needed)
    renewed: set[Ref] = set()
    for change in changes:
        with_it = change.wanted is not None and not renewed.isdisjoint(change.wanted.needs)
        if not with_it and not _is_in(scope, change):
            continue
        if with_it or providers()[change.ref.kind].RENEWS:
            renewed.add(change.ref)
        if change.pending or _is_left(change, options):
            left.append(change)
        else:
            due.append(change)
    # what clones run on stays, where these are left
    used = {ref for each in left if each.wanted is not None for ref in each.wanted.needs}
    kept = [each for each in due if providers()[each.ref.kind].RENEWS and each.ref in used]
    due, left = [each for each in due if each not in kept], [*left, *kept]
    lost = {change.ref for change in left if change.verb in STOPPING}
    # what needs a disk that would move with its data waits for it
    moves = {change.ref for change in left if change.verb is Verb.MOVE}
    waiting = [each for each in due if each.wanted is not None and not moves.isdisjoint(each.wanted.needs)]
    due = [each for each in due if each not in waiting]
    # what follows from a change that is left is left with it
    return Choice(due=[each for each in due if not _follows(each, lost)], left=[*left, *waiting])


def _follows(change: Change, lost: set[Ref]) -> bool:
    """Return whether something has to come again only because of what is in ``lost``."""
    needs = change.wanted.needs if change.wanted is not None else ()
    return not lost.isdisjoint(needs) and all(each.code is ReasonCode.NEEDED for each in change.reasons)


def _is_left(change: Change, options: Up) -> bool:
    if change.verb is Verb.REPAIR:
        return options.no_repair
    return options.no_restart and change.guest is not None and change.verb in STOPPING - {Verb.REMOVE}


def _scope(options: Up, testbed: LoadedTestbed, needed: Collection[str]) -> set[str] | None:
    """The guests that are changed, with their golden images; None for all."""
    if not options.guests:
        return None
    named = {*named_guests(options), *needed}
    golden = {testbed.guests[name].golden for name in named}
    return {*named, *filter(None, golden)}


def named_guests(options: Up) -> list[str]:
    """Return the guests that the options of an ``up`` name."""
    return [*options.guests, *options.rerun_guests, *options.recreate]


def check_names(names: Collection[str], known: Collection[str]) -> None:
    """Raise RefusedError for guests that there are not."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RefusedError(
            f"there is no guest {', '.join(map(repr, unknown))}", hint=near_names(unknown[0], known)
        )


def _is_in(scope: set[str] | None, change: Change) -> bool:
    """What belongs to no guest is in: guests need it. But nothing of that goes: others may need it."""
    if scope is None:
        return True
    if change.guest is not None:
        return change.guest in scope
    return change.verb not in STOPPING


def is_said(change: Change, changed: Collection[Ref]) -> bool:
    """Return whether the log has a change and its reasons: not what is new, nor what follows from others."""
    provider = providers()[change.ref.kind]
    if provider.ONLY_KNOWN and change.verb is Verb.REMOVE:
        return False
    needs = change.wanted.needs if change.wanted is not None else ()
    follows = any(ref in changed and not providers()[ref.kind].LOOKS_AT_FILES for ref in needs)
    lost = provider.LOST_WITH_NEEDS and change.verb is not Verb.UPDATE
    return change.verb is not Verb.CREATE and not follows and not lost and not provider.LOOKS_AT_FILES


def not_recreated(testbed: LoadedTestbed, options: Up, found: Differences) -> list[tuple[str, None]]:
    """Return why guests that are to be recreated are not: nothing does that with their kind."""
    asked = {each.guest for each in found.wanted if providers()[each.ref.kind].asked(options, each)}
    guests = (testbed.guests[name] for name in dict.fromkeys(options.recreate))
    return [
        (f"{guest.name} is a {guest.state.kind} guest: these cannot be recreated", None)
        for guest in guests
        if guest.name not in asked
        and not guest.state.is_golden_image
        and guest.state.testbed_host not in dict(found.unseen)
    ]
