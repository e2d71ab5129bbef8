"""Run scripts of guests, which run each time that their guest has started, and when they changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _marks
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.scripts import run_script
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("run-scripts",)
AFTER = ("set-up",)
STAGE = "run"
AGAIN = "rerun_scripts"
REPEATED = True
#: They are lost when their guest stops.
LOST_WITH_NEEDS = True

limit = _marks.limit


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the run scripts of each guest that has some."""
    return _marks.wanted(
        testbed,
        KINDS[0],
        lambda guest: testbed.seed_digest(guest) if guest.run is not None and guest.run.run_scripts else "",
    )


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the run scripts that have run since their guest started."""
    return await _marks.observe(view, host, KINDS[0], wanted)


def compare(wanted: Resource, found: Found) -> Change | None:
    """Scripts that changed are run."""
    if found.spec == wanted.spec:
        return None
    reason = Reason(ReasonCode.OUTDATED, "a run script, its context or its environment")
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Run the scripts of a guest in order."""
    (change,) = changes
    guest = work.testbed.guests[change.ref.name]
    for script in guest.run.run_scripts if guest.run is not None else ():
        name = script.rpartition("/")[2]
        with work.step(STAGE, f"run:{guest.name}:{name}", guest=guest.name, host=host.name) as step:
            login = await work.starter.login(guest)
            await run_script(work.context.shell, login, script, step.output)
    _marks.note(work, change)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Forget that they ran."""
    _marks.forget(work, changes)
