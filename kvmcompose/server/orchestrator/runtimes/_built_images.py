"""Images that were built for containers. They stay on hosts until ``down --purge``, old ones as well."""

from __future__ import annotations

from collections.abc import Sequence

from kvmcompose.core.image_build import build_repository
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.stages import shielded

#: How often images are asked for: so many steps of a build that failed may lie below one another.
_MOST_ROUNDS = 200


async def purge(context: Context, host: HostDrivers) -> Sequence[str]:
    """Remove what the project has built from a host; return what stays, as other containers use it."""
    kept: dict[str, str] = {}
    gone: set[str] = set()
    for _ in range(_MOST_ROUNDS):
        names = [each for each in await _names(context.project, host) if each not in kept]
        kept |= {each: f"{each} stays on {host.name}: its engine lists it still" for each in gone & {*names}}
        names = [each for each in names if each not in gone]
        if not names:
            break
        for name in names:
            try:
                await shielded(host.engine.images.remove_image(context.project, name))
                gone.add(name)
            except DriverError as error:
                kept[name] = f"{name} stays on {host.name}: {error.message}"
    return list(kept.values())


async def _names(project: str, host: HostDrivers) -> list[str]:
    """Return the names of images that the project has built, and the IDs of those that have none.

    These are on hosts that an image was sent to. Podman also has the steps of builds that failed, in which
    removing one image shows the one below it.
    """
    prefix = f"{build_repository(project)}:"
    found = []
    for image in await host.engine.images.of_project(project):
        if image.build:
            found += [tag for tag in image.tags if tag.startswith(prefix)] if image.tags else [image.id]
    return found
