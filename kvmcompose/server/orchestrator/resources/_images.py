"""Images of containers on hosts: which one a reference means, and sending one by its ID.

A host without a registry gets images from the main host. It then knows their content, by the ID, and neither
a tag nor the digest of a registry: tags of a host are those of all its users, and no engine takes a digest
from an archive. What a reference means is what it means on the main host, where the engine has compared the
digest when it pulled the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, aclosing, suppress
from weakref import WeakKeyDictionary

from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.image_source import ImageFile
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Pieces
from kvmcompose.images.image_archives import ArchivedImage, opened_image
from kvmcompose.providers.containers.interface.images import FoundImage
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.sending import Progress
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

_turns: WeakKeyDictionary[Work, dict[tuple[str, str], asyncio.Lock]] = WeakKeyDictionary()


async def known_image(host: HostDrivers, main: HostDrivers, reference: str) -> FoundImage | None:
    """Return the image that a reference means on a host, None where the host lacks it. Raises DriverError.

    Where the host does not know the reference, it means what it means on the main host.
    """
    found = await host.engine.images.image(reference)
    if found is not None or host.name == main.name:
        return found
    there: FoundImage | None = None
    with suppress(DriverError):  # a main host without containers need not have an engine
        there = await main.engine.images.image(reference)
    return await host.engine.images.image(there.id) if there is not None else None


def main_host(work: Work) -> HostDrivers:
    """Return the drivers of the main host."""
    return work.view.hosts[work.testbed.main_host.name]


async def send_image(work: Work, host: HostDrivers, image_id: str, step: RunningStep) -> None:
    """Make the image with this ID exist on a host: send it from the main host, unless it is there.

    ``image_id`` is as in ``FoundImage``. The image gets no tag there, and is named by its ID. The step
    reports the progress. It is sent once, however many ask for it at a time. Raises DriverError, also when
    the main host lacks the image.
    """
    main = main_host(work)
    async with turn(work, host, image_id):
        if host.name == main.name or await host.engine.images.image(image_id) is not None:
            return
        found = await main.engine.images.image(image_id)
        if found is None:
            raise DriverError(f"cannot send the image {image_id} to {host.name}: {main.name} lacks it, too")
        async with aclosing(main.engine.images.save(image_id)) as archive:
            await _load(host, image_id, archive, Progress(step, found.size), step)


def opened_file(testbed: LoadedTestbed, source: ImageFile) -> AbstractContextManager[ArchivedImage]:
    """Open the image in a file of a project. Raises DriverError for a project that is read for a member."""
    if testbed.source.member is not None:
        raise DriverError(f"{source} is a member's, and is not opened")
    return opened_image(source, testbed.source.location / source.path)


async def load_file(work: Work, host: HostDrivers, run: ContainerGuest, step: RunningStep) -> None:
    """Make the image of a container, which is in a file, exist on a host: load it, unless it is there.

    A host gets just the one image, without a tag (``kvmcompose.images.image_archives``). Raises
    KvmComposeError.
    """
    source = run.image_file
    assert source is not None  # noqa: S101 (it is in a file)
    async with turn(work, host, run.image):
        if await host.engine.images.image(run.image) is not None:
            return
        with ExitStack() as stack:
            image = await in_thread(stack.enter_context, opened_file(work.testbed, source))
            if image.image_id != run.image:
                raise DriverError(f"{source} has changed since the build", hint="kvm-compose generate")
            async with aclosing(image.pieces()) as archive:
                await _load(host, run.image, archive, Progress(step, image.size), step)


async def _load(
    host: HostDrivers, image_id: str, archive: Pieces, progress: Progress, step: RunningStep
) -> None:
    await host.engine.images.load(_counted(archive, progress), image_id, step.output)
    progress.end(image_id)


def turn(work: Work, host: HostDrivers, what: str) -> asyncio.Lock:
    """Return the lock of those that bring one image to a host, for one action."""
    return _turns.setdefault(work, {}).setdefault((host.name, what), asyncio.Lock())


async def _counted(archive: Pieces, count: Callable[[int], None]) -> AsyncIterator[bytes]:
    async for piece in archive:
        yield piece
        count(len(piece))
