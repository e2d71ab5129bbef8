"""Files that are sent to a host: what it lacks, and sending it."""

from __future__ import annotations

from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.golden import golden_recipe
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work


async def observe(view: View, host: HostDrivers, kind: str) -> list[Found]:
    """Return what a host has, with the paths of what it lacks. Raises DriverError."""
    transfers = view.files.to(host.name) if view.files is not None else None
    if view.files is None or transfers is None or view.golden is None:
        return []
    running = {each.guest for each in (await view.domains(host)).values() if each.state != "shut off"}
    await view.disks()  # before it is looked for what is to be sent
    lacking = await transfers.look(running, await view.inventory(host))
    made = await view.golden.made()
    stale = {
        each.name
        for each in view.files.testbed.golden
        if made.get(each.name) != golden_recipe(view.files.testbed, each)
    }
    lacking += [path for name, path in transfers.golden.items() if name in stale]
    return [Found(ref=Ref(kind, host.name, host.name), detail=tuple(lacking))]


def compare(wanted: Resource, found: Found) -> Change | None:
    """What is lacking is sent."""
    if not found.detail:
        return None
    reason = Reason(ReasonCode.MISSING, first_few(found.detail, 3))
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


def refusals(work: Work, *, main: bool) -> list[Refusal]:
    """Return what is in the way of the transfers to the main host, or to the others."""
    files = work.view.files
    if files is None:
        return []
    names = [name for name in work.view.hosts if (name == files.main) is main]
    transfers = {name: each for name in names if (each := files.to(name)) is not None}
    return [(f"{name}: {text}", hint) for name, each in transfers.items() for text, hint in each.refusals]


async def send(work: Work, host: HostDrivers) -> None:
    """Send what a host lacks. Raises StepFailedError."""
    files = work.view.files
    transfers = files.to(host.name) if files is not None else None
    if files is not None and transfers is not None:
        await files.recheck()
        await transfers.send(work.running, work.failed_guests, work.log)
        await files.keep()
