"""That a guest with a ``healthcheck`` is healthy, as that says when it runs in the guest.

``up`` waits for it. One that turns unhealthy is drift: an ``up`` waits again, and fails where it stays so. It
restarts no guest for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator import health
from kvmcompose.server.orchestrator.resources import _marks
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

KINDS = ("healthy",)
AFTER = ("run-scripts",)
STAGE = "health"
ONLY_KNOWN = True
LOST_WITH_NEEDS = True
LOOKS_INSIDE = True

limit = _marks.limit


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield it for each guest with a healthcheck that is to run, after its scripts."""
    for guest in testbed.runnable:
        if guest.state.healthcheck is None or testbed.intents.get(guest.name, "running") != "running":
            continue
        run, host = guest.run, guest.state.testbed_host
        kinds = ["reachable"]
        if run is not None and run.setup_scripts:
            kinds.append("set-up")
        if run is not None and run.run_scripts:
            kinds.append("run-scripts")
        yield Resource(
            ref=Ref(KINDS[0], guest.name, host),
            spec=guest.state.healthcheck,
            needs=(runtime_of(guest).instance(guest), *(Ref(kind, guest.name, host) for kind in kinds)),
            guest=guest.name,
        )


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Check the guests of a host that run, unless that was done within their intervals."""
    if not view.inside or not view.testbeds:
        return ()
    testbed = view.testbeds[0]
    checked = {each.name: each for each in testbed.runnable if each.state.healthcheck is not None}
    if not checked:
        return ()
    context = view.context

    async def look(guest: LoadedGuest) -> Found:
        seen = await health.look(context, testbed, guest, running[guest.name])
        ref = Ref(KINDS[0], guest.name, host.name)
        return Found(ref=ref, spec=seen.check, state=seen.state, guest=guest.name, detail=seen.why)

    running = {each.guest: each for each in await view.instances(host) if each.state == "running"}
    return await side_by_side(look(each) for name, each in checked.items() if name in running)


def compare(wanted: Resource, found: Found) -> Change | None:
    """One that is not healthy is waited for."""
    if found.state == health.HEALTHY:
        return None
    reason = Reason(ReasonCode.STATE, found.detail or "", before=found.state, after=health.HEALTHY)
    return Change(verb=Verb.REPAIR, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return guests that cannot be entered, and are to be checked or waited for."""
    testbed = work.testbed
    found = [
        (
            f"{change.ref.name} has a healthcheck, but cannot be reached from the main host",
            "set testbed_options.management to true, or take its healthcheck away",
        )
        for change in changes
        if change.wanted is not None and not _is_reached(testbed.guests[change.ref.name])
    ]
    for guest in testbed.runnable:
        found += [
            (
                f"{guest.name} waits for {name}: {condition}, which cannot be reached from the main host",
                "set testbed_options.management to true, or use the condition 'started'",
            )
            for name, condition in guest.state.depends_on.items()
            if condition != "started" and name in testbed.guests and not _is_reached(testbed.guests[name])
        ]
    return found


def _is_reached(guest: LoadedGuest) -> bool:
    return guest.domain is None or guest.address is not None


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Wait until a guest is healthy."""
    (change,) = changes
    context, guest = work.context, work.testbed.guests[change.ref.name]
    with work.step(STAGE, f"healthy:{guest.name}", guest=guest.name, host=host.name) as step:
        why = await health.wait(context, work.testbed, guest, step.say)
        if why:
            raise DriverError(
                f"{guest.name} is not healthy: {why}",
                hint=f"kvm-compose exec {guest.name} -- COMMAND looks into it; "
                f"kvm-compose restart {guest.name} starts it again",
            )


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Nothing is kept of it."""
