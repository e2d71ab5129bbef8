"""Images of containers on hosts: which one a reference means, and sending one from the main host by its ID.

A host without a registry gets images from the main host. It then knows their content, by the ID, and neither
a tag nor the digest of a registry: tags of a host are those of all its users, and no engine takes a digest
from an archive. What a reference means is what it means on the main host, where the engine has compared the
digest when it pulled the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from weakref import WeakKeyDictionary

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.interface import FoundImage, Pieces
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.sending import Progress

_turns: WeakKeyDictionary[Work, dict[tuple[str, str], asyncio.Lock]] = WeakKeyDictionary()


async def known_image(host: HostDrivers, main: HostDrivers, reference: str) -> FoundImage | None:
    """Return the image that a reference means on a host, None where the host lacks it. Raises DriverError.

    Where the host does not know the reference, it means what it means on the main host.
    """
    found = await host.images.image(reference)
    if found is not None or host.name == main.name:
        return found
    there: FoundImage | None = None
    with suppress(DriverError):  # a main host without containers need not have an engine
        there = await main.images.image(reference)
    return await host.images.image(there.id) if there is not None else None


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
        if host.name == main.name or await host.images.image(image_id) is not None:
            return
        found = await main.images.image(image_id)
        if found is None:
            raise DriverError(f"cannot send the image {image_id} to {host.name}: {main.name} lacks it, too")
        progress = Progress(step, found.size)
        async with aclosing(main.images.save(image_id)) as archive:
            await host.images.load(_counted(archive, progress), image_id, step.output)
        progress.end(found.tags[0] if found.tags else image_id)


def turn(work: Work, host: HostDrivers, what: str) -> asyncio.Lock:
    """Return the lock of those that bring one image to a host, for one action."""
    return _turns.setdefault(work, {}).setdefault((host.name, what), asyncio.Lock())


async def _counted(archive: Pieces, count: Callable[[int], None]) -> AsyncIterator[bytes]:
    async for piece in archive:
        yield piece
        count(len(piece))
