"""What a member's testbed needs of the member's folder, sent to the main host (decision 16)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvmcompose.core.resource import Change, Found, Ref, Resource
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _transfers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("delivery",)
AFTER = ("project-folder",)
STAGE = "network"
LOOKS_AT_FILES = True


def wanted(testbed: LoadedTestbed) -> Iterable[Resource]:
    """Return the files of the main host, for a member's testbed."""
    if testbed.source.member is None:
        return ()
    main = testbed.main_host.name
    return [Resource(ref=Ref(KINDS[0], main, main), spec=None)]


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the files of the main host, with the paths of those that it lacks."""
    if view.files is None or host.name != view.files.main or host.blobs is None:
        return ()
    return await _transfers.observe(view, host, KINDS[0])


compare = _transfers.compare


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Too little room, or data that would be lost."""
    return _transfers.refusals(work, main=True)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Send what the host lacks."""
    await _transfers.send(work, host)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Nothing: disks stay."""
