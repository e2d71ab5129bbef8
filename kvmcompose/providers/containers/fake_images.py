"""Images of a simulated host."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence

from kvmcompose.core.image_build import ImageBuild, build_tag
from kvmcompose.core.image_lock import repository
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeImage, Place
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.providers.containers.fake_ownership import own
from kvmcompose.providers.containers.interface.images import FoundImage


class FakeImages:
    """See ``ContainerImages``. A registry has every image; an ID follows from the name that was pulled."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def image(self, reference: str) -> FoundImage | None:
        await self._host.call("image", reference)
        named = reference if ":" in reference else f"{reference}:latest"
        for image, each in self._host.world.images.items():
            if reference in (image, *_digests(image, each)) or named in each.tags:
                return _found(image, each)
        return None

    async def of_project(self, project: str) -> Sequence[FoundImage]:
        await self._host.call("images")
        images = self._host.world.images.items()
        return [_found(image, each) for image, each in images if each.project == project]

    async def pull(self, reference: str, on_line: OnLine) -> str:
        await self._host.call("pull", reference)
        named = reference if ":" in reference else f"{reference}:latest"
        on_line(f"(a fake registry) {named}")
        digest = named.partition("@")[2] or f"sha256:{hashlib.sha256(named.encode()).hexdigest()}"
        return _put_image(self._host, digest, named)

    async def load(self, archive: Pieces, image_id: str, on_line: OnLine) -> None:
        await self._host.call("load_image", image_id)
        content = await whole(archive)
        on_line(f"(a fake engine) {len(content)} bytes loaded")
        _, project, build = [*content.decode(errors="replace").split("\n"), "", ""][:3]
        new = FakeImage(project=project, build=build)
        self._host.world.images.setdefault(image_id, new).size = len(content)
        self._host.keep(("images", image_id))

    async def save(self, image_id: str) -> AsyncGenerator[bytes]:
        await self._host.call("save_image", image_id)
        there = self._host.world.images.get(image_id)
        if there is None:
            raise DriverError(f"cannot read the image {image_id}: No such image")
        labels = (there.project, there.build) if there.project else ()
        yield "\n".join((image_id, *labels)).encode()

    async def build(self, project: str, build: ImageBuild, key: str, context: Pieces, on_line: OnLine) -> str:
        await self._host.call("build_image", build.context)
        size = len(await whole(context))
        on_line(f"(a fake engine) {size} bytes of {build.context}, {build.dockerfile}")
        named = build_tag(project, key)
        there = next((each for each in self._host.world.images.values() if named in each.tags), None)
        if there is not None and there.project != project:
            raise DriverError(f"cannot build the image of {build.context}: another image has its name")
        image = f"sha256:{hashlib.sha256(named.encode()).hexdigest()}"
        _put_image(self._host, image, named, project)
        self._host.world.images[image].build = key
        self._host.keep(("images", image))
        return image

    async def commit(self, project: str, name: str, tag: str) -> str:
        await self._host.call("commit_container", name)
        container = own(self._host, project, name, "make an image of")
        content = f"{container.image} {sorted(container.files.items())}"
        image = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        _put_image(self._host, image, tag, project)
        self._host.world.images[image].files = dict(container.files)
        self._host.keep(("images", image))
        return image

    async def remove_image(self, project: str, tag: str) -> None:
        await self._host.call("remove_image", tag)
        for image, each in list(self._host.world.images.items()):
            if tag not in (image, *each.tags):
                continue
            if each.project != project:
                raise DriverError(f"cannot remove the image {tag}: it is not the project's")
            is_used = any(one.image == image for one in self._host.world.containers.values())
            if is_used and not {*each.tags} - {tag}:
                raise DriverError(f"cannot remove the image {tag}: a container uses it")
            if tag in each.tags:
                each.tags.remove(tag)
            if not each.tags:
                del self._host.world.images[image]
            self._host.keep(("images", image))


def image_of(host: SimulatedHost, reference: str) -> str | None:
    """Return the ID of the image that a reference means, None where there is none."""
    named = reference if ":" in reference else f"{reference}:latest"
    for image, each in host.world.images.items():
        if reference in (image, *_digests(image, each)) or named in each.tags:
            return image
    return None


def _put_image(host: SimulatedHost, image: str, tag: str, project: str = "") -> str:
    """Give a name to an image, which another one may have had."""
    changed: list[Place] = [("images", image)]
    for other, each in host.world.images.items():
        if tag in each.tags:
            each.tags.remove(tag)
            changed.append(("images", other))
    there = host.world.images.setdefault(image, FakeImage(project=project))
    there.tags.append(tag)
    host.keep(*changed)
    return image


def _found(image: str, each: FakeImage) -> FoundImage:
    return FoundImage(
        id=image,
        tags=tuple(sorted(each.tags)),
        digests=_digests(image, each),
        size=each.size,
        project=each.project,
        build=each.build,
    )


def _digests(image: str, each: FakeImage) -> tuple[str, ...]:
    """Return the digests of an image that was pulled: its registry has it under its ID."""
    return () if each.project else tuple(sorted({f"{repository(tag)}@{image}" for tag in each.tags}))


async def whole(pieces: Pieces) -> bytes:
    """Return all of it."""
    return b"".join([piece async for piece in pieces])
