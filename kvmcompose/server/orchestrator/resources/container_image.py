"""Images of containers on a host. Those that it lacks are pulled from their registry, or loaded from a file.

A host that cannot pull one gets it from the main host, which builds those that are built. None is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.resource import Change, Found, Ref, Resource
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator import host_transfers
from kvmcompose.server.orchestrator.resources._image_builds import built, known_build
from kvmcompose.server.orchestrator.resources._images import (
    known_image,
    load_file,
    main_host,
    opened_file,
    send_image,
    turn,
)
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
    for (name, host), run in _images(testbed).items():
        yield Resource(ref=Ref(KINDS[0], name, host), spec=run.image)


def _images(testbed: LoadedTestbed) -> Mapping[tuple[str, str], ContainerGuest]:
    """Return the images by their names and hosts, each with a container of it."""
    return {
        (guest.run.image_name, guest.state.testbed_host): guest.run
        for guest in testbed.runnable
        if isinstance(guest.run, ContainerGuest)
    }


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return those of the images that are wanted on a host that it has."""
    if view.files is None:
        return ()
    await view.instances_of("containers", host)  # an engine that hangs is waited for once
    found, main = [], view.hosts[view.files.main]
    for (name, where), run in _images(view.files.testbed).items():
        if where != host.name:
            continue
        if run.build is not None:
            there = await known_build(host, main, run.build, view.context.project)
        else:
            there = await known_image(host, main, run.image)
        if there is not None:
            found.append(Found(ref=Ref(KINDS[0], name, host.name), spec=run.image, detail=there))
    return found


def compare(wanted: Resource, found: Found) -> Change | None:  # noqa: ARG001
    """What is there under the name of an image is the image."""
    return None


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Load an image from a file, pull it, build it, or send it from the main host."""
    (change,) = changes
    run = _images(work.testbed)[change.ref.name, host.name]
    if run.image_file is not None:
        with work.step(STAGE, f"load:{run.image_file}", host=host.name) as step:
            await load_file(work, host, run, step)
        return
    if run.build is not None:
        with work.step(STAGE, f"build:{run.build.how.context}", host=host.name) as step:
            image = await built(work, run.build, step)
            await send_image(work, host, image, step)
        return
    reference = run.image
    with work.step(STAGE, f"pull:{reference}", host=host.name) as step:
        try:
            image = await _pulled(work, host, reference, step)
        except DriverError as error:
            if host.name == main_host(work).name:
                raise
            step.say(error.message)
            image = await _from_main_host(work, reference, step, error)
            await send_image(work, host, image, step)
        step.say(f"{reference} is {image}")


async def _from_main_host(work: Work, reference: str, step: RunningStep, error: DriverError) -> str:
    """Return the ID of an image that the main host has, or can pull. Raises ``error`` when it cannot."""
    main = main_host(work)
    try:
        there = await main.engine.images.image(reference)
        return there.id if there is not None else await _pulled(work, main, reference, step)
    except DriverError as failed:
        raise DriverError(
            error.message, hint=error.hint or f"{main.name}, which would send it, lacks it, too"
        ) from failed


async def _pulled(work: Work, host: HostDrivers, reference: str, step: RunningStep) -> str:
    """Pull an image and return its ID; it is pulled once, however many hosts need it from this one."""
    async with turn(work, host, reference):
        return await host.engine.images.pull(reference, step.output)


def bytes_to_send(testbed: LoadedTestbed, change: Change) -> int:
    """Return the size of what is loaded from a file; what a registry sends is not known."""
    run = _images(testbed).get((change.ref.name, change.ref.host))
    if run is None or run.image_file is None:
        return 0
    with opened_file(testbed, run.image_file) as image:
        return image.size


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Nothing: images stay."""
