"""Set-up scripts of guests, which run once in a guest's life (decision 12)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _marks
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.scripts import has_run, note_run, run_script
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("set-up",)
AFTER = ("reachable",)
STAGE = "setup"
#: The option of ``up`` that runs them again.
AGAIN = "rerun_scripts"
REPEATED = True

limit = _marks.limit


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the set-up of each guest that has scripts for it."""
    return _marks.wanted(
        testbed,
        KINDS[0],
        lambda guest: testbed.seed_digest(guest) if guest.run is not None and guest.run.setup_scripts else "",
    )


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the set-up of guests in which it is known to have run. Other guests have to be asked."""
    return await _marks.observe(view, host, KINDS[0], wanted)


def compare(wanted: Resource, found: Found) -> Change | None:
    """Scripts that changed since they ran are run when the user asks for that."""
    if found.spec == wanted.spec:
        return None
    reason = Reason(ReasonCode.OUTDATED, "a setup script, its context or its environment")
    return Change(
        verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found, pending=True
    )


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Run the scripts of a guest in order, unless they have run there."""
    (change,) = changes
    guest = work.testbed.guests[change.ref.name]
    shell = work.context.shell
    for script in guest.run.setup_scripts if guest.run is not None else ():
        name = script.rpartition("/")[2]
        with work.step(STAGE, f"setup:{guest.name}:{name}", guest=guest.name, host=host.name) as step:
            login = await work.starter.login(guest)
            if not work.up.rerun_scripts and await has_run(shell, login, script):
                step.skip()
                continue
            await run_script(shell, login, script, step.output)
            await note_run(shell, login, script)
    _marks.note(work, change)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Forget that it ran."""
    _marks.forget(work, changes)
