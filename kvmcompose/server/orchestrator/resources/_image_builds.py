"""Images that the main host builds from artefacts, each once for all hosts and guests that need it."""

from __future__ import annotations

from kvmcompose.core.deployable import ContainerBuild, ContainerGuest
from kvmcompose.core.image_build import build_tag
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.archives import build_context_digest, pieces_in
from kvmcompose.providers.containers.interface import FoundImage
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.resources._images import main_host, turn
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed


def builds_of(testbed: LoadedTestbed) -> dict[str, ContainerBuild]:
    """Return how the images of a testbed that are built are built, by their names."""
    return {
        guest.run.image: guest.run.build
        for guest in testbed.runnable
        if isinstance(guest.run, ContainerGuest) and guest.run.build is not None
    }


def is_of(image: FoundImage, build: ContainerBuild, project: str) -> bool:
    """Return whether an image is one that this project has built so."""
    return (image.project, image.build) == (project, build.key)


async def built(work: Work, build: ContainerBuild, step: RunningStep) -> str:
    """Return the ID of the image on the main host, which builds it unless it has. Raises DriverError."""
    main, project = main_host(work), work.context.project
    tag = build_tag(project, build.key)
    async with turn(work, main, tag):
        there = await main.images.image(tag)
        if there is not None and is_of(there, build, project):
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
            image = await main.images.build(project, build.how, build.key, context, step.output)
        step.say(f"{tag} is {image}")
        return image
