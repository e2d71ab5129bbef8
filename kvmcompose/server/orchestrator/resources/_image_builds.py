"""Images that the main host builds from artefacts, each once for all hosts and guests that need it."""

from __future__ import annotations

from contextlib import suppress

from kvmcompose.core.deployable import ContainerBuild
from kvmcompose.core.image_build import build_tag
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.archives import build_context_digest, pieces_in
from kvmcompose.providers.containers.interface.images import FoundImage
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.resources._images import main_host, turn
from kvmcompose.server.orchestrator.resources._work import Work


async def known_build(
    host: HostDrivers, main: HostDrivers, build: ContainerBuild, project: str
) -> FoundImage | None:
    """Return the image on a host that the main host has built, None where either lacks it.

    What bears its name there is of others, unless its labels say that this project has built it so; on other
    hosts it has no name.
    """
    there: FoundImage | None = None
    with suppress(DriverError):  # said where the engine of the main host is asked for itself
        there = await main.engine.images.image(build_tag(project, build.key))
    if there is None or (there.project, there.build) != (project, build.key):
        return None
    return there if host.name == main.name else await host.engine.images.image(there.id)


async def built(work: Work, build: ContainerBuild, step: RunningStep) -> str:
    """Return the ID of the image on the main host, which builds it unless it has. Raises DriverError."""
    main, project = main_host(work), work.context.project
    tag = build_tag(project, build.key)
    async with turn(work, main, tag):
        there = await known_build(main, main, build, project)
        if there is not None:
            return there.id
        path = build.how.archive
        try:
            file = await in_thread(work.testbed.source.open, path)
        except OSError as error:
            raise DriverError(
                f"{path} cannot be read: {error.strerror}", hint="build it again: kvm-compose generate"
            ) from error
        with file:
            # an image is known by what is in state.json: it must not be made from something else
            if await in_thread(build_context_digest, file, path) != build.digest:
                raise DriverError(
                    f"{path} is not the context of which state.json has the digest",
                    hint="build both again: kvm-compose generate",
                )
            size = await in_thread(file.seek, 0, 2)
            context = pieces_in(file, size)
            image = await main.engine.images.build(project, build.how, build.key, context, step.output)
        step.say(f"{tag} is {image}")
        return image
