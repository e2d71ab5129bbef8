"""What guests of other hosts need from the project: images, seeds and disks, sent there by content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Ref, Resource
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator import host_transfers
from kvmcompose.server.orchestrator.resources import _transfers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("files",)
AFTER = ("golden-image",)
STAGE = host_transfers.STAGE
LOOKS_AT_FILES = True


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the files of each host but for the main host."""
    for name, host in testbed.state.testbed_hosts.items():
        if not host.is_main_host:
            yield Resource(ref=Ref(KINDS[0], name, name), spec=None)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the files of another host, with the titles of those that it lacks."""
    if view.files is None or host.name == view.files.main:
        return ()
    found = await _transfers.observe(view, host, KINDS[0])
    return found if host.name in view.files.testbed.state.testbed_hosts else ()


compare = _transfers.compare


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Too little room, or data that would be lost."""
    return _transfers.refusals(work, main=False)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:  # noqa: ARG001
    """Send what the host lacks."""
    await _transfers.send(work, host)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Nothing: disks stay."""
