"""``up``: what differs is changed, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import msgspec

from kvmcompose.core.commands import Power, PowerVerb, Up
from kvmcompose.core.deployable import VethPair
from kvmcompose.core.deployment import Fault, Level, Phase
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.instance import HostSize
from kvmcompose.core.names import first_few
from kvmcompose.core.order import dependencies
from kvmcompose.core.resource import Change, Found, Ref, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.transfer_plan import forget_sent, read_sent
from kvmcompose.pipeline.renames import renames
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.reconcile.wording import left_lines, sentence
from kvmcompose.server.action_log import ActionLog, Refusals, RunningStep, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.deployed import Deployed
from kvmcompose.server.orchestrator.distribute import Distribution
from kvmcompose.server.orchestrator.instances import host_size
from kvmcompose.server.orchestrator.kept_files import keep_files
from kvmcompose.server.orchestrator.left_behind import leave, name_left
from kvmcompose.server.orchestrator.perform import perform, prepare
from kvmcompose.server.orchestrator.plan import (
    TAKEN_DOWN,
    Choice,
    Differences,
    by_kind,
    check_names,
    choose,
    digest_of,
    is_said,
    named_guests,
    not_recreated,
    plan,
)
from kvmcompose.server.orchestrator.privileges import check_state, network_xml
from kvmcompose.server.orchestrator.resources import _marks, providers
from kvmcompose.server.orchestrator.resources._domain_checks import warn_of_memory
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: What guests are to be, where that is not to run.
_INTENTS = {PowerVerb.STOP: "shut off", PowerVerb.PAUSE: "paused"}


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What an ``up`` finds before it begins: what differs, what it would change, what is in the way."""

    work: Work
    found: Differences
    choice: Choice
    refusals: list[Refusal]


def _is_running(found: Found) -> bool:
    """Return whether it is a guest that runs."""
    return providers()[found.ref.kind].RUNS and found.state == "running"


class BringUp:
    """One ``up``."""

    def __init__(self, context: Context, testbed: LoadedTestbed, command: Up | Power, log: ActionLog) -> None:
        self._context = context
        self._options = command if isinstance(command, Up) else Up(guests=command.guests)
        self._command = command
        self._log = log
        self._said: set[Ref] = set()
        self._testbed = testbed
        self._deployed = context.current if context.deployed is not None else None
        self._hosts = self._known_hosts()
        self._needed = self._dependencies()
        self._testbed.intents = self._intents = self._new_intents()
        self._files = Distribution(context, testbed, self._hosts, provision=self._options.provision)

    def _new_intents(self) -> dict[str, str]:
        """What guests are to be from now on: ``up`` leaves those that were stopped, unless it names them."""
        intents = self._context.intents(self._testbed)
        if isinstance(self._command, Up):
            intents = {name: state for name, state in intents.items() if state != TAKEN_DOWN}
        named: Collection[str] = {*self._options.guests, *self._needed}
        if isinstance(self._command, Power):
            named = named or tuple(guest.name for guest in self._testbed.runnable)
            state = _INTENTS.get(self._command.verb)
            if state is not None:
                return intents | dict.fromkeys(named, state)
        return {name: state for name, state in intents.items() if name not in named}

    def _dependencies(self) -> dict[str, str]:
        """Return the guests that those named depend on, each with one that needs it.

        With ``provision`` nothing is done to guests that are not named.
        """
        if not isinstance(self._command, Up) or self._command.provision:
            return {}
        guests = self._testbed.guests

        def depends_on(name: str) -> Iterable[str]:
            known = guests[name].state.depends_on if name in guests else ()
            return (each for each in known if each in guests and guests[each].is_started)

        return dependencies(self._command.guests, depends_on)

    def _known_hosts(self) -> dict[str, HostDrivers]:
        """The hosts of the testbed, and those that something of it may still be on."""
        hosts = dict(self._context.hosts(self._testbed))
        if self._deployed is not None:
            for name, host in self._context.hosts(self._deployed).items():
                if name not in self._options.abandon:
                    hosts.setdefault(name, host)
        return hosts

    async def run(self) -> Phase | None:
        """Raises RefusedError when nothing was changed, StepFailedError when something failed."""
        check_names(named_guests(self._options), self._testbed.guests)
        await in_thread(self.check_privileges)
        await self.check_abandoned()
        work, choice = await self._check()
        if not await prepare(work, choice.due) and not self._options.keep_going:
            missing = first_few(sorted({ref.name for ref in work.failed}))
            raise RefusedError(f"nothing was changed, as this cannot be had: {missing}")
        await self._abandon()
        await self._settle(work)
        self._keep_intents()
        self._say(choice.left)
        due = {change.guest for change in choice.due}
        for name, dependant in self._needed.items():
            if name in due:
                self._log.say(f"{name} is started: {dependant} depends on it", guest=name)
        changed = {change.ref for change in choice.due}
        for change in choice.due:
            if isinstance(self._command, Up) and is_said(change, changed):
                self._log.say(sentence(change))
        if not choice.due:
            await _marks.note_starts(self._view, self._found.found)
            if any(self._going()) or self._options.abandon:
                await self._note_what_is_up(self._found.found)
            await in_thread(keep_files, self._context, self._testbed, self._log, added=self._is_partial)
            nothing = "nothing else is to be done" if choice.left else "nothing to do"
            self._log.say(
                f"{self._context.project} is up already: {self._count(self._found.found)}, {nothing}"
            )
            return Phase.UP
        if self._deployed is not None:
            await name_left(self._context, self._deployed, self._testbed, self._log)
        store, project = self._context.store, self._context.project
        store.set_deployed(project, await in_thread(lambda: self._to_be_deployed().encode()))
        await in_thread(keep_files, self._context, self._testbed, self._log, added=True)
        failed = await perform(work, choice.due, keep_going=self._options.keep_going)
        if failed:
            raise StepFailedError(f"{first_few(sorted(failed))} did not come up")
        found = await self._check_result()
        await self._note_what_is_up(found)
        await in_thread(keep_files, self._context, self._testbed, self._log, added=self._is_partial)
        self._log.say(f"{project} is up: {self._count(found)}")
        return Phase.UP

    @property
    def _only_stops(self) -> bool:
        """Whether guests are stopped or paused, and nothing else is done."""
        return isinstance(self._command, Power) and self._command.verb in _INTENTS

    @property
    def _is_partial(self) -> bool:
        """Whether guests that are not in the testbed any more are left as they are."""
        return bool(self._options.guests) or isinstance(self._command, Power)

    def _say(self, left: Sequence[Change]) -> None:
        """Name what is left, each once."""
        for line in left_lines([each for each in left if each.ref not in self._said]):
            self._log.say(line, Level.WARNING)
        self._said |= {each.ref for each in left}

    def _count(self, found: Sequence[Found]) -> str:
        """How many guests run, of how many where others do not although they were not stopped."""
        others = {each.guest for each in self._testbed.resources if each.guest}
        known = others.union(guest.name for guest in self._testbed.runnable)
        off = sum(state != TAKEN_DOWN for state in self._intents.values())
        count = len(known & {each.guest for each in found if each.guest in others or _is_running(each)})
        if count + off < len(known):
            text = f"{count} of {len(known)} guests run"
        else:
            text = "1 guest runs" if count == 1 else f"{count} guests run"
        return f"{text}, {off} stopped or paused" if off else text

    def _keep_intents(self) -> None:
        guests = self._testbed.guests
        self._context.store.set_intents(
            self._context.project, {guests[name].state.identity: each for name, each in self._intents.items()}
        )

    # -- before anything is changed

    def check_privileges(self) -> None:
        """All at once, before any host is asked; each text is checked again when it is used."""
        context, testbed = self._context, self._testbed
        if testbed.network_plan.network is not None:
            network_xml(context, testbed, testbed.network_plan.network)
        if not context.owner.is_admin:
            check_state(context, testbed)
            for guest in testbed.guests.values():
                if guest.run is not None:
                    runtime_of(guest).check_privileges(context, testbed, guest)

    async def check_abandoned(self) -> None:
        """Raise RefusedError for hosts to be abandoned that are none, or that the testbed still has."""
        sent = await in_thread(read_sent, self._context.folder)
        deployed = self._deployed.state.testbed_hosts if self._deployed is not None else {}
        known = {*sent, *deployed} - self._testbed.state.testbed_hosts.keys()
        if not known.issuperset(self._options.abandon):
            left = f"these have: {', '.join(sorted(known))}" if known else "none has"
            raise RefusedError(
                "only hosts that have left the testbed can be abandoned",
                hint=f"{left}; remove a host from kvm-compose-config.json first",
            )

    async def _abandon(self) -> None:
        """Forget what hosts have that are given up."""
        for name in self._options.abandon:
            await in_thread(forget_sent, self._context.folder, name)
            guests = self._deployed.guests.values() if self._deployed is not None else ()
            lost = [each.name for each in guests if each.state.testbed_host == name and each.run is not None]
            disks = f", with the disks of {first_few(lost, 5)}" if lost else ""
            self._log.say(f"{name} is abandoned: whatever is there stays there{disks}", Level.WARNING)

    async def _check(self) -> tuple[Work, Choice]:
        """Find what to change, and what is in the way of it, on all hosts. Raises Refusals."""
        with self._log.step("check", "check") as step:
            await self._warn_of_leftovers(step)
            seen = await self.examine()
            expected = self._options.expected
            if expected is not msgspec.UNSET and expected != digest_of(seen.choice.due):
                text = "what runs has changed since the plan was made"
                raise Refusals([(text, "kvm-compose plan shows what would change now")])
            if seen.refusals:
                raise Refusals(seen.refusals)
        self._found = seen.found
        return seen.work, seen.choice

    def _choose(self, found: Differences) -> Choice:
        """The changes that are carried out. What only stops or pauses guests sends no files for them."""
        changes = found.changes
        if self._only_stops:
            changes = [each for each in changes if not providers()[each.ref.kind].LOOKS_AT_FILES]
        return choose(changes, self._options, self._testbed, self._needed)

    async def examine(self) -> Examined:
        """Look at all hosts; return what would change, and what is in the way of it. Changes nothing."""
        found = await self._look(self._options)
        running = {each.guest for each in found.found if _is_running(each)}
        self._needed = {name: why for name, why in self._needed.items() if name not in running}
        choice = self._choose(found)
        facts: dict[str, HostSize] = {}
        work = Work(self._view, self._testbed, self._command, self._log, facts)
        reasons: list[Refusal] = [
            (f"{name}: {error.message}", self._hint_for_silent(name, error.hint))
            for name, error in found.unseen
        ]
        work.silent = frozenset(name for name, _ in found.unseen)

        async def ask(host: HostDrivers) -> None:
            facts.update(await host_size(self._context, self._testbed, host))

        reasons += await work.on_hosts(ask)
        if not reasons:
            reasons += await self._other_machines()
        work.running |= {each.guest for each in found.found if each.guest and each.state == "running"}
        due = by_kind(choice.due)
        for provider in dict.fromkeys(providers().values()):
            mine = [change for kind in provider.KINDS for change in due.get(kind, ())]
            with suppress(KvmComposeError) if work.silent else nullcontext():
                # what cannot be checked without the hosts that do not answer, is checked when they do
                reasons += await provider.refusals(work, mine)
        reasons += not_recreated(self._testbed, self._options, found)
        if not reasons:
            warn_of_memory(work)
            self._warn_of_renames(choice)
        return Examined(work=work, found=found, choice=choice, refusals=list(dict.fromkeys(reasons)))

    def _hint_for_silent(self, host: str, hint: str | None) -> str | None:
        """Return what to do about a host that does not answer."""
        if host in self._testbed.state.testbed_hosts:
            return hint
        return f"if {host} is gone for good, give it up with what is on it: kvm-compose up --abandon {host}"

    @property
    def _restarted(self) -> Collection[str]:
        """The guests that are to be restarted even if nothing of them has changed."""
        if isinstance(self._command, Power) and self._command.verb is PowerVerb.RESTART:
            return self._options.guests or self._testbed.guests.keys()
        return ()

    async def _settle(self, work: Work) -> None:
        """Let resources bear what they were made from, before the server's own record changes.

        What is inside goes first: what is known of it may be seen from what it is in.
        """
        found = by_kind(self._found.found)
        for provider in dict.fromkeys(reversed([*providers().values()])):
            await provider.settle(work, [each for kind in provider.KINDS for each in found.get(kind, ())])

    async def _look(self, options: Up | None = None) -> Differences:
        testbeds = [each for each in (self._testbed, self._deployed) if each is not None]
        self._view = View(
            self._context,
            testbeds,
            self._hosts,
            self._files,
            self._options.abandon,
            inside=not self._only_stops,
        )
        restart = self._restarted if options else ()
        return await plan(self._view, self._testbed, options, restart=restart, renews=not self._only_stops)

    async def _other_machines(self) -> list[Refusal]:
        """Find hosts that are another machine at another address: what is up stays on the one before.

        The same machine has the project's folder, which bears the mark of this main host, and is not at an
        address that another host of the testbed had.
        """
        before = self._deployed.state.testbed_hosts if self._deployed is not None else {}
        found: list[Refusal] = []
        for name, host in self._testbed.state.testbed_hosts.items():
            drivers = self._hosts[name]
            if name not in before or before[name].ip == host.ip or drivers.blobs is None:
                continue
            had = {each.ip for other, each in before.items() if other != name}
            if host.ip in had or not (await self._view.inventory(drivers)).delivered:
                what = f"host {name}: ip: {before[name].ip} -> {host.ip}, which is another machine"
                hint = "give it another name, so that guests leave the one before, or: kvm-compose down"
                found.append((what, hint))
        return found

    def _warn_of_renames(self, choice: Choice) -> None:
        """Say which line keeps the data of a guest that looks renamed: without it, that is another guest."""
        new = {change.guest for change in choice.due if change.verb is Verb.CREATE}
        if self._deployed is None or not new:
            return
        for each in renames(self._deployed.state, self._testbed.state):
            if each.new in new:
                self._log.say(
                    f"{each.old} is gone, and {each.new} is like it: if it was renamed, `{each.line}` at"
                    f" {each.new} keeps its disk and addresses; without that, they stay under {each.old}",
                    Level.WARNING,
                    stage="check",
                )

    async def _warn_of_leftovers(self, step: RunningStep) -> None:
        sent = await in_thread(read_sent, self._testbed.folder)
        for name in sorted(sent.keys() - self._hosts.keys()):
            step.say(
                f"{name} is no host of the testbed any more; disks that it was sent may be there still",
                Level.WARNING,
            )

    def _to_be_deployed(self, gone: Collection[str] = ()) -> Deployed:
        """What is stored as being up: of what has to be taken away yet, how it is reached.

        ``gone`` are hosts from which all was taken away.
        """
        hosts, links = self._going()
        built = Deployed.of(self._testbed, {name: each for name, each in hosts.items() if name not in gone})
        return msgspec.structs.replace(built, links=links)

    def _going(self) -> tuple[dict[str, Any], tuple[VethPair, ...]]:
        """Return the hosts and the links of what was brought up that are not wanted any more."""
        before, testbed = self._context.deployed, self._testbed
        if before is None:
            return {}, ()
        hosts = {
            name: host
            for name, host in before.hosts.items()
            if not host.get("is_main_host")
            and name not in testbed.state.testbed_hosts
            and name not in self._options.abandon
        }
        had = self._deployed.network_plan.veths if self._deployed is not None else ()
        wanted = set(testbed.network_plan.veths)
        links = [each for each in (*before.links, *had) if each.host not in self._options.abandon]
        return hosts, tuple(dict.fromkeys(each for each in links if each not in wanted))

    async def _note_what_is_up(self, found: Sequence[Found]) -> None:
        """Store what is up, and of what was to be taken away that which exists yet."""
        await _marks.note_starts(self._view, found)
        there = {(each.ref.host, each.ref.name) for each in found}
        gone = self._hosts.keys() - {host for host, _ in there} - self._testbed.state.testbed_hosts.keys()
        noted = await in_thread(self._to_be_deployed, gone)
        for name in sorted(gone):
            host = self._hosts[name]
            await leave(self._context, host, await self._view.inventory(host), self._log)
        links = tuple(pair for pair in noted.links if (pair.host, pair.left) in there)
        document = await in_thread(msgspec.structs.replace(noted, links=links).encode)
        self._context.store.set_deployed(self._context.project, document)

    # -- afterwards

    async def _check_result(self) -> Sequence[Found]:
        """Done means seen: look again, and return what exists.

        Raises StepFailedError for what is not as it should be.
        """
        with self._log.step("verify", "verify"):
            left = await self._look()
            choice = self._choose(left)
            reasons = [(f"{name}: {error.message}", error.hint) for name, error in left.unseen]
            reasons += [
                (f"{sentence(change)} (seen after all was done)", "kvm-compose up tries again")
                for change in choice.due
            ]
            for message, hint in reasons:
                self._log.fault(Fault(step="verify", message=message, hint=hint), stage="verify")
            if reasons:
                raise StepFailedError("not all is as it should be")
        self._say(choice.left)
        return left.found
