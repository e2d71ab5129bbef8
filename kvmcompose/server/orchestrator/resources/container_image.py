"""Images of containers on a host. Those that it lacks are pulled from their registry; none is removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.resource import Change, Found, Ref, Resource
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator import host_transfers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("container-image",)
AFTER = ("files",)
STAGE = host_transfers.STAGE
LOOKS_AT_FILES = True
BEFOREHAND = True


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the image of each container, once for each host."""
    for image, host in _images(testbed):
        yield Resource(ref=Ref(KINDS[0], image, host), spec=image)


def _images(testbed: LoadedTestbed) -> Iterable[tuple[str, str]]:
    return dict.fromkeys(
        (guest.run.image, guest.state.testbed_host)
        for guest in testbed.runnable
        if isinstance(guest.run, ContainerGuest)
    )


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return those of the images that are wanted on a host that it has."""
    if view.files is None:
        return ()
    found = []
    for image, name in _images(view.files.testbed):
        there = await host.images.image(image) if name == host.name else None
        if there is not None:
            found.append(Found(ref=Ref(KINDS[0], image, host.name), spec=image, detail=there))
    return found


def compare(wanted: Resource, found: Found) -> Change | None:  # noqa: ARG001
    """What is there under the name of an image is the image."""
    return None


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Pull an image."""
    (change,) = changes
    with work.step(STAGE, f"pull:{change.ref.name}", host=host.name) as step:
        image = await host.images.pull(change.ref.name, step.output)
        step.say(f"{change.ref.name} is {image}")


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Nothing: images stay."""
