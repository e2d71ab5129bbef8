"""Writes ``images.lock``: asks the container engine of this machine which content a tag stands for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.image_lock import (
    LARGEST_LOCK,
    LOCK_PATH,
    digest_among,
    is_pinned,
    read_lock,
    written_lock,
)
from kvmcompose.core.image_source import image_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kvmcompose.build.project import Project
    from kvmcompose.core.model import Host
    from kvmcompose.monitor.console import Console
    from kvmcompose.providers.containers.interface.images import ContainerImages


def write_image_lock(project: Project, console: Console, *, refresh: bool) -> bool:
    """Pin the container images of a project, and return whether it has any.

    Those in the lock stay as they are, unless ``refresh``. Raises KvmComposeError, with the lock unchanged.
    """
    from kvmcompose.effects.files import write_atomic
    from kvmcompose.effects.opening import read_regular

    state = project.compiled.state
    wanted = container_images(each.definition for each in state.testbed_guests.values())
    path = project.folder / LOCK_PATH
    try:
        data: bytes | None = read_regular(path, limit=LARGEST_LOCK)
    except FileNotFoundError:
        data = None
    except OSError as error:
        raise KvmComposeError(f"cannot read {path}: {error}") from error
    before = read_lock(data).digests if data is not None else {}
    if not wanted and data is None:
        return False
    new = [each for each in wanted if refresh or each not in before]
    found = _asked(state.main_host, new, before, console.say) if new else {}
    for gone in sorted(before.keys() - set(wanted)):
        console.say(f"{LOCK_PATH}: {gone} is removed, as no container uses it")
    digests = {each: found.get(each) or before[each] for each in wanted}
    for each in wanted:
        what = "stays" if digests[each] == before.get(each) else "is now"
        console.say(f"{LOCK_PATH}: {each} {what} {digests[each]}")
    written = written_lock(digests)
    if written != data:
        try:
            write_atomic(path, written)
        except OSError as error:
            raise KvmComposeError(f"cannot write {path}: {error.strerror}") from error
    return bool(wanted)


def container_images(definitions: Iterable[object]) -> list[str]:
    """Return the images of containers that a lock can pin, sorted."""
    from kvmcompose.guests._containers import ContainerSection

    images = {each.image for each in definitions if isinstance(each, ContainerSection)}
    named = [each for each in images if each is not None and image_file(each) is None]
    return sorted(image for image in named if not is_pinned(image))


def _asked(
    main: Host, images: Iterable[str], before: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Return the digests of images. Raises KvmComposeError."""
    from kvmcompose.effects.server_places import missing_modules

    if missing := missing_modules():
        raise KvmComposeError(
            f"cannot ask for the digests of images: this installation lacks {', '.join(missing)}",
            hint="pip install 'kvmcompose[server]'",
        )
    from kvmcompose.providers.real import RealDrivers

    async def ask() -> dict[str, str]:
        drivers = RealDrivers()
        try:
            return await digests_of(drivers.host(main).engine.images, images, before, say)
        finally:
            await drivers.close()

    return asyncio.run(ask())


async def digests_of(
    engine: ContainerImages, images: Iterable[str], before: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Pull images, and return their digests in their registries. Raises KvmComposeError.

    The engines have no request in common that asks a registry alone: what Podman's service has of Docker's
    API lacks ``/distribution``.
    """
    found = {}
    for image in images:
        say(f"pulling {image}")
        await engine.pull(image, lambda line: say(f"    {line}"))
        there = await engine.image(image)
        digest = digest_among(image, there.digests, before.get(image)) if there is not None else None
        if digest is None:
            raise KvmComposeError(
                f"cannot pin {image}: the engine knows no digest for it in its registry",
                hint="name it by one: image: NAME@sha256:DIGEST",
            )
        found[image] = digest
    return found
