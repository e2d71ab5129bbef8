"""``plan``: what ``up`` would do with a testbed that need not be built yet. Changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress

from kvmcompose.core.deployable import DeployableGuest
from kvmcompose.core.deployment import Fault, Level, Step
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.planned import PlannedChange, PlannedHost, PlannedRefusal, PlanRequest, TestbedPlan
from kvmcompose.core.resource import STOPPING, Change, Ref, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import FileSize
from kvmcompose.reconcile.wording import loss, reasons_text, subject
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.orchestrator.built_testbed import read_testbed
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.plan import check_names, digest_of, named_guests
from kvmcompose.server.orchestrator.planned_folder import PlannedFolder
from kvmcompose.server.orchestrator.price import Price, ToSend, Touched, durations
from kvmcompose.server.orchestrator.resources import providers
from kvmcompose.server.orchestrator.resources._work import Refusal
from kvmcompose.server.orchestrator.resources.libvirt_domain import SHUT_DOWNS
from kvmcompose.server.orchestrator.testbed import LoadedTestbed
from kvmcompose.server.orchestrator.up import BringUp, Examined

#: The states of a guest that takes memory.
_ON = ("running", "paused", "pmsuspended")
#: How many of the latest steps are looked at for how long guests take to start.
_TIMED_STEPS = 4000


async def preview(context: Context, request: PlanRequest) -> TestbedPlan:
    """Return what an ``up`` would change. Raises RefusedError where that cannot be found out.

    It is found by the code of ``up`` itself.
    """
    testbed, refusals = await in_thread(_read, context, request)
    log = _Unwritten()
    check_names(named_guests(request.options), testbed.guests)
    bring_up = BringUp(context, testbed, request.options, log)
    try:
        await in_thread(bring_up.check_privileges)
        await bring_up.check_abandoned()
    except KvmComposeError as error:
        refusals.append((error.message, error.hint))
    seen = await bring_up.examine()
    refusals += seen.refusals
    transfers = await _transfers(context, seen, testbed)
    steps = context.store.ended_steps(context.project, _TIMED_STEPS)

    def found() -> TestbedPlan:
        hosts, seconds = _price(testbed, seen, transfers, durations(steps))
        return TestbedPlan(
            deployment=context.deployment,
            changes=tuple(_planned(seen, testbed)),
            refusals=tuple(PlannedRefusal(message=text, hint=hint) for text, hint in dict.fromkeys(refusals)),
            warnings=tuple(log.warnings),
            digest=digest_of(seen.choice.due),
            hosts=hosts,
            seconds=seconds,
            unseen=tuple(dict.fromkeys(name for name, _ in seen.found.unseen)),
        )

    return await in_thread(found)


def _read(context: Context, request: PlanRequest) -> tuple[LoadedTestbed, list[Refusal]]:
    """Return the testbed, and why its files cannot be used. Raises RefusedError."""
    folder = PlannedFolder(context.files, request.files)
    refusals: list[Refusal] = []
    if request.document is None:
        testbed = read_testbed(folder)
    else:
        testbed = LoadedTestbed(folder, request.document)
        found = testbed.inspect()
        refusals += [(f"{path} {what}", None) for path, what in found.foreign.items()]
        refusals += [(f"{path} is missing", None) for path in found.missing]
    if testbed.project != context.project:
        raise RefusedError(
            f"this is the testbed {testbed.project!r}, not {context.project!r}",
            hint=f"--project-name {testbed.project}",
        )
    if context.deployed is not None:
        _ = context.current  # what is up may be refused now
    return testbed, refusals


def _planned(seen: Examined, testbed: LoadedTestbed) -> Iterable[PlannedChange]:
    due = {change.ref: change for change in seen.choice.due}
    chosen = {**due, **{change.ref: change for change in seen.choice.left}}
    all_changes = {change.ref: chosen[change.ref] for change in seen.found.changes if change.ref in chosen}
    running = {each.guest for each in seen.found.found if each.guest and each.state in _ON}
    running -= {change.guest for change in seen.choice.due if change.verb in STOPPING}
    deployed = seen.work.view.deployed
    testbeds = [testbed, *([deployed] if deployed is not None else [])]
    touched = Touched(providers(), seen.found.wanted, testbeds, running)
    for ref, change in all_changes.items():
        yield PlannedChange(
            verb=change.verb,
            kind=ref.kind,
            name=ref.name,
            host=ref.host,
            guest=change.guest,
            subject=subject(change),
            pending=ref not in due,
            follows=_follows(change, all_changes),
            reasons=change.reasons,
            because=reasons_text(change),
            loses=loss(change) or None,
            touches=touched.by(change),
            waits_for=providers()[ref.kind].WAITS_FOR or None if ref not in due and change.pending else None,
        )


def _follows(change: Change, changes: Mapping[Ref, Change]) -> bool:
    """Return whether something comes, goes or moves with what it needs, of the same guest or of no guest.

    What is only known of a guest is forgotten with the reason for knowing it: nothing on a host changes.
    """
    if change.verb is Verb.REMOVE:
        kinds = providers()
        if kinds[change.ref.kind].ONLY_KNOWN:
            return True
        return not kinds[change.ref.kind].RUNS and any(
            each.verb is Verb.REMOVE and each.guest == change.guest and kinds[each.ref.kind].RUNS
            for each in changes.values()
        )
    moves = change.verb is Verb.MOVE and not providers()[change.ref.kind].RUNS
    needs = change.wanted.needs if change.wanted is not None and (change.found is None or moves) else ()
    return any(ref in changes and changes[ref].guest == change.guest for ref in needs)


async def _transfers(context: Context, seen: Examined, testbed: LoadedTestbed) -> dict[str, ToSend]:
    """Return what would be sent to each host, and the room that it has."""
    view, found = seen.work.view, dict[str, ToSend]()
    others = await in_thread(_beside_files, seen, testbed)
    for name, host in view.hosts.items():
        other = view.files.to(name) if view.files is not None else None
        lacking = other.lacking_bytes if other is not None else 0
        moving = view.files.moving.get(name, FileSize(0, 0)) if view.files is not None else FileSize(0, 0)
        free: int | None = None
        if name not in seen.found.silent:
            with suppress(KvmComposeError, OSError):
                lacking += (await view.volumes(host)).lacking_bytes
                if host.blobs is None:
                    free = (await in_thread(shutil.disk_usage, context.folder)).free
                else:
                    free = (await view.inventory(host)).room
        other_bytes = others.get(name, 0)
        # what the main host loads, it reads from its own disk
        sent = other_bytes if name != testbed.main_host.name else 0
        kept = lacking + moving.allocated + other_bytes
        found[name] = ToSend(lacking + moving.length + sent, kept, free)
    return found


def _beside_files(seen: Examined, testbed: LoadedTestbed) -> dict[str, int]:
    """Return what changes send to hosts, beside the files of the project, in bytes."""
    found: dict[str, int] = {}
    for change in seen.choice.due:
        with suppress(KvmComposeError):  # it is said when it is sent
            size = providers()[change.ref.kind].bytes_to_send(testbed, change)
            found[change.ref.host] = found.get(change.ref.host, 0) + size
    return found


def _price(
    testbed: LoadedTestbed,
    seen: Examined,
    transfers: Mapping[str, ToSend],
    earlier: Mapping[str, float],
) -> tuple[tuple[PlannedHost, ...], float | None]:
    deployed, facts = seen.work.view.deployed, seen.work.facts
    before: dict[str, dict[str, DeployableGuest]] = {}
    for each in seen.found.found:
        known = (deployed or testbed).guests.get(each.guest or "")
        if known is not None and known.run is not None and each.state in _ON:
            before.setdefault(each.ref.host, {})[known.name] = known.run
    price = Price(providers(), seen.choice.due, before, testbed)
    hosts = [price.of_host(name, facts.get(name), transfers[name]) for name in seen.work.view.hosts]
    limits = {name: seen.work.boots(name) for name in testbed.state.testbed_hosts if name in facts}
    return tuple(hosts), price.seconds(earlier, limits, SHUT_DOWNS)


class _Unwritten(ActionLog):
    """The log of what is not done: warnings are collected, the rest is dropped."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.faults: list[Fault] = []

    def say(
        self,
        text: str,
        level: Level = Level.INFO,
        *,
        stage: str | None = None,  # noqa: ARG002
        step: str | None = None,  # noqa: ARG002
        guest: str | None = None,  # noqa: ARG002
        host: str | None = None,  # noqa: ARG002
    ) -> None:
        if level is Level.WARNING:
            self.warnings.append(text)

    def put_step(self, number: int, step: Step) -> None:
        """Do nothing."""
