"""The project's folder on a host, and the link to it at the place that domain XML names (decision 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("project-folder",)
AFTER = ()
STAGE = "network"


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the folder on each host."""
    for name in testbed.state.testbed_hosts:
        yield Resource(ref=Ref(KINDS[0], testbed.project, name), spec=None)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the link of a host, if it leads to the project."""
    context = view.context
    folder = context.folder_on(host)
    target = await host.project_folders.linked(
        context.project, list(dict.fromkeys((folder, context.location)))
    )
    if target is None:
        return ()
    state = "" if target == folder else "moved"
    return [Found(ref=Ref(KINDS[0], context.project, host.name), state=state)]


def compare(wanted: Resource, found: Found) -> Change | None:
    """A link that leads to where the folder was before 0.2 is changed."""
    if not found.state:
        return None
    reason = Reason(ReasonCode.FORMAT)
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Create the folder and the link."""
    context = work.context
    with work.step(STAGE, "project-folder", host=host.name):
        if host.blobs is not None:
            await shielded(host.blobs.open(context.project, await context.read_home()))
        # before 0.2, the main host's link led to the project folder, whoever owned it
        before = context.location if not work.running else None
        await shielded(host.project_folders.link(context.project, context.folder_on(host), before))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Remove the link; the folder keeps the disks."""
    context = work.context
    with work.step(STAGE, "project-folder", host=host.name):
        for folder in dict.fromkeys((context.folder_on(host), context.location)):
            await shielded(host.project_folders.unlink(context.project, folder))
