"""Files that are sent to a host: what it lacks, and sending it."""

from __future__ import annotations

from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.golden import golden_recipe
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: The most files of a host that reasons name.
_NAMED = 3


async def observe(view: View, host: HostDrivers, kind: str) -> list[Found]:
    """Return what a host has, with the titles of what it lacks. Raises DriverError."""
    transfers = view.files.to(host.name) if view.files is not None else None
    if view.files is None or transfers is None or view.golden is None:
        return []
    running = {
        each.guest for each in (await view.instances_of("libvirt", host)).values() if each.state != "shut off"
    }
    await view.disks()  # before it is looked for what is to be sent
    lacking = await transfers.look(running, await view.inventory(host))
    made = await view.golden.made()
    stale = {
        each.name
        for each in view.files.testbed.golden
        if made.get(each.name) != golden_recipe(view.files.testbed, each)
    }
    lacking += [path for path, name in transfers.golden.items() if name in stale]
    named = [_title(view.files.testbed, path) for path in lacking[:_NAMED]]
    if len(lacking) > _NAMED:
        named[-1] = f"the rest of {len(lacking)} files"
    return [Found(ref=Ref(kind, host.name, host.name), detail=tuple(named))]


def _title(testbed: LoadedTestbed, path: str) -> str:
    """Return what a file is to a user: ``disk of web``, ``seed of web``, ``image debian_12-….qcow2``."""
    name = path.rpartition("/")[2]
    for guest in testbed.guests.values():
        if guest.run is not None and path in guest.run.files:
            if isinstance(guest.run, ContainerGuest):
                return name
            if path in guest.disks[1:]:
                return f"disk {name} of {guest.name}"
            if path in guest.disks:
                return f"disk of {guest.name}"
            if path == testbed.seed_path(guest):
                return f"seed of {guest.name}"
    return f"image {name}"


def compare(wanted: Resource, found: Found) -> Change | None:
    """What is lacking is sent."""
    if not found.detail:
        return None
    reasons = tuple(Reason(ReasonCode.MISSING, each) for each in found.detail)
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=reasons, wanted=wanted, found=found)


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
