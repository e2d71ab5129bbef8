"""Puts back the interfaces of guests that were restarted by others than kvm-compose, and lost them by that.

It is what an ``up`` does for such a guest, of what is up and not of what was edited since, and nothing else:
guests that are off stay off, and other differences are left to ``up``. A daemon does it by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing

import msgspec

from kvmcompose.core.commands import Reconnect, Up
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change, Found, ReasonCode, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.reconcile.difference import difference
from kvmcompose.reconcile.wording import sentence
from kvmcompose.server.action_log import ActionLog, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.guest_events import guest_events
from kvmcompose.server.orchestrator.perform import perform
from kvmcompose.server.orchestrator.resources import Provider, providers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

_RUNNING = "running"


class Disconnected(msgspec.Struct, frozen=True, kw_only=True):
    """Guests that run without interfaces that they had, by name and identity.

    ``unknown`` are the identities of those whose hosts do not answer, ``why`` says what these say.
    """

    guests: Mapping[str, str] = {}
    unknown: frozenset[str] = frozenset()
    why: str = ""


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the hosts has shown; ``silent`` are the errors of those that do not answer."""

    view: View
    changes: Sequence[Change]
    silent: Mapping[str, KvmComposeError]


def _provider(guest: LoadedGuest) -> Provider:
    """Return what makes and removes a guest that can run."""
    return providers()[runtime_of(guest).instance(guest).kind]


def _reconnectable(testbed: LoadedTestbed) -> list[LoadedGuest]:
    """Return the guests that lose their interfaces by a restart, and are to run."""
    return [
        guest
        for guest in testbed.runnable
        if testbed.intents.get(guest.name, _RUNNING) == _RUNNING and _provider(guest).RECONNECTS
    ]


async def starts(context: Context) -> AsyncGenerator[str]:
    """Yield the identities of guests that run and may lose interfaces by a start: now, and at each start.

    This ends where there are none. Raises KvmComposeError where a host reports nothing.
    """
    testbed = await context.read_current()
    guests = _reconnectable(testbed) if context.deployed is not None else []
    runtimes = {guest.run.runtime for guest in guests if guest.run is not None}
    if not runtimes:
        return
    identities = {guest.state.identity for guest in guests}
    boots: dict[str, str] = {}
    async with aclosing(guest_events(context, runtimes)) as events:
        async for event in events:
            if event.state != _RUNNING or event.guest not in identities:
                continue
            if boots.get(event.guest) != event.boot:
                yield event.guest
            boots[event.guest] = event.boot


async def disconnected(context: Context, identities: Collection[str]) -> Disconnected:
    """Return those of some guests that have lost interfaces. Changes nothing."""
    testbed = await context.read_current()
    guests = [each for each in _reconnectable(testbed) if each.state.identity in identities]
    seen = await _look(context, testbed, guests)
    return Disconnected(
        guests={
            change.guest: testbed.guests[change.guest].state.identity
            for change in seen.changes
            if change.guest is not None
        },
        unknown=frozenset(each.state.identity for each in guests if each.state.testbed_host in seen.silent),
        why="; ".join(f"{name}: {error.message}" for name, error in seen.silent.items()),
    )


async def reconnect(context: Context, command: Reconnect, log: ActionLog) -> None:
    """Put back the interfaces of some guests. Raises StepFailedError."""
    testbed = await context.read_current()
    guests = [each for each in _reconnectable(testbed) if each.name in command.guests]
    with log.step("check", "check"):
        seen = await _look(context, testbed, guests)
        for error in seen.silent.values():
            raise error
    for change in seen.changes:
        log.say(sentence(change))
    failed = await perform(Work(seen.view, testbed, Up(), log, {}), seen.changes, keep_going=True)
    if failed:
        raise StepFailedError(f"{first_few(sorted(failed))} could not be connected again")


async def _look(context: Context, testbed: LoadedTestbed, guests: Sequence[LoadedGuest]) -> _Look:
    """Return what guests that run have lost, as changes."""
    await in_thread(testbed.read_files)
    hosts = {guest.state.testbed_host: context.host_of(guest, testbed) for guest in guests}
    view = View(context, [testbed], hosts, inside=False)
    used = list(dict.fromkeys(_provider(guest) for guest in guests))

    async def of_host(name: str) -> list[Found] | KvmComposeError:
        try:
            return [each for provider in used for each in await provider.observe(view, hosts[name])]
        except KvmComposeError as error:
            return error

    answers = dict(zip(hosts, await side_by_side(map(of_host, hosts)), strict=True))
    found = [
        each for answer in answers.values() if not isinstance(answer, KvmComposeError) for each in answer
    ]
    refs = {runtime_of(guest).instance(guest) for guest in guests}
    wanted = [each for provider in used for each in provider.wanted(testbed) if each.ref in refs]
    running = {each.ref for each in found if each.state == _RUNNING}
    changes = difference(
        [each for each in wanted if each.ref in running],
        [each for each in found if each.ref in refs & running],
        {kind: provider.compare for provider in used for kind in provider.KINDS},
        earlier=lambda: {each.ref: each.spec for each in wanted},
    )
    return _Look(
        view=view,
        changes=[each for each in changes if each.verb is Verb.REPAIR and _is_loss(each)],
        silent={name: answer for name, answer in answers.items() if isinstance(answer, KvmComposeError)},
    )


def _is_loss(change: Change) -> bool:
    """Return whether something is missing: what a guest has changed of its interfaces is left to ``up``."""
    return any(each.code is ReasonCode.MISSING for each in change.reasons)
