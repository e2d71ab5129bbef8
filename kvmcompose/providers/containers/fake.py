"""Containers of a simulated host."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from kvmcompose.core.image_build import ImageBuild, build_tag
from kvmcompose.core.image_lock import repository
from kvmcompose.core.instance import HostMeasures, HostSize, Measured, Usage
from kvmcompose.hosts.errors import DriverError, NoSuchPathError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeContainer, FakeImage, Place
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.providers.containers.interface import (
    EngineFacts,
    FoundImage,
    HalfStartedError,
    ObservedContainer,
    following,
)

_KILLED = 137
_CPUS, _MEMORY_MB = 8, 16384


def _measured(name: str, container: FakeContainer, now: float) -> Measured:
    """Return what a container has used: it works evenly."""
    found = Measured(
        project=container.project, name=name, state=container.state, health=container.health
    )  # fmt: skip
    if not container.pid:
        return msgspec.structs.replace(found, health="")
    age = now - container.started
    turns = int(age)
    return msgspec.structs.replace(
        found,
        uptime=age,
        cpu_seconds=age / 100,
        memory=8 << 20,
        read_bytes=4096 * turns,
        written_bytes=1024 * turns,
        received_packets=2 * turns,
        received_bytes=1000 * turns,
        sent_packets=turns,
        sent_bytes=400 * turns,
    )


class FakeContainers:
    """See ``Containers``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def facts(self) -> EngineFacts:
        await self._host.call("engine_facts")
        return EngineFacts(
            engine="Docker",
            version="fake",
            rootless=False,
            cpus=_CPUS,
            memory_mb=_MEMORY_MB,
            limits=True,
        )

    async def foreign(self, project: str, names: Sequence[str]) -> Sequence[str]:
        await self._host.call("foreign_containers")
        there = self._host.world.containers
        return sorted(name for name in names if name in there and there[name].project != project)

    async def observe(self, project: str) -> Mapping[str, ObservedContainer]:
        await self._host.call("observe_containers")
        return {name: _observed(name, each) for name, each in self._of(project).items()}

    async def events(self, project: str) -> AsyncGenerator[ObservedContainer]:
        """Look often: tests change the world by hand."""
        await self._host.call("container_events", project)
        known: dict[str, ObservedContainer] = {}
        while True:
            there = {each.id: _observed(name, each) for name, each in self._of(project).items()}
            for changed in following(known, {**dict.fromkeys(known), **there}):
                yield changed
            await asyncio.sleep(0.1)

    async def container(self, project: str, name: str) -> ObservedContainer:
        await self._host.call("container", name)
        return _observed(name, self._own(project, name, "look at"))

    async def create(
        self, project: str, guest: str, name: str, request: Mapping[str, Any], made: str = ""
    ) -> str:
        await self._host.call("create_container", name)
        doing = f"create the container {name}"
        there = self._host.world.containers.get(name)
        if there is not None:
            self._refuse_foreign(project, name, doing)
            if there.made != made:
                raise DriverError(f"cannot {doing}: there is one, made from something else")
            return there.id
        image = self._image(str(request.get("Image", "")))
        if image is None:
            raise DriverError(f"cannot {doing}: No such image: {request.get('Image')}")
        number = len(self._host.world.containers)
        created = FakeContainer(
            project=project,
            guest=guest,
            id=hashlib.sha256(f"{name} {number} {time.time()}".encode()).hexdigest(),
            image=image,
            made=made,
            request=dict(request),
            files=dict(self._host.world.images[image].files),
        )
        self._host.world.containers[name] = created
        self._keep(name)
        return created.id

    async def start(self, project: str, name: str, identity: str = "") -> ObservedContainer:
        await self._host.call("start_container", name)
        container = self._own(project, name, "start")
        if identity not in ("", container.id):
            raise DriverError(f"cannot start the container {name}: No such container: {identity}")
        if container.half_started:
            raise HalfStartedError(f"cannot start the container {name}: the engine was killed")
        if not container.pid:
            pids = (each.pid for each in self._host.world.containers.values())
            container.pid = max(pids, default=0) + 1
            container.state, container.started = "running", time.time()
            container.exit_code, container.reason = None, None
            container.health = "healthy" if container.request.get("Healthcheck") else ""
            self._keep(name)
        return _observed(name, container)

    async def stop(self, project: str, name: str, seconds: int) -> None:  # noqa: ARG002 (it obeys at once)
        await self._host.call("stop_container", name)
        self._end(name, self._own(project, name, "stop"), 0)

    async def pause(self, project: str, name: str) -> None:
        await self._host.call("pause_container", name)
        container = self._own(project, name, "pause")
        if not container.pid:
            raise DriverError(f"cannot pause the container {name}: it is not running")
        container.state = "paused"
        self._keep(name)

    async def unpause(self, project: str, name: str) -> None:
        await self._host.call("unpause_container", name)
        container = self._own(project, name, "resume")
        if container.state == "paused":
            container.state = "running"
            self._keep(name)

    async def remove(self, project: str, name: str) -> None:
        await self._host.call("remove_container", name)
        if name in self._host.world.containers:
            self._end(name, self._own(project, name, "remove"), _KILLED)
            del self._host.world.containers[name]
            self._keep(name)

    async def commit(self, project: str, name: str, tag: str) -> str:
        await self._host.call("commit_container", name)
        container = self._own(project, name, "make an image of")
        content = f"{container.image} {sorted(container.files.items())}"
        image = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        _put_image(self._host, image, tag, project)
        self._host.world.images[image].files = dict(container.files)
        self._host.keep(("images", image))
        return image

    async def run(
        self,
        project: str,
        name: str,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str = "",
        environment: Mapping[str, str] | None = None,
        seconds: float | None = None,  # noqa: ARG002 (it ends at once)
        stdin: Pieces | None = None,
    ) -> int:
        await self._host.call("run_in_container", f"{name}:{argv[0]}")
        container = self._own(project, name, f"run {argv[0]} in")
        if container.state != "running":
            raise DriverError(f"cannot run {argv[0]} in the container {name}: it is not running")
        if stdin is not None:
            on_line((await _whole(stdin)).decode(errors="replace"))
        shown = f" as {user}" if user else ""
        on_line(f"(a fake container{shown}) {' '.join([*sorted(environment or {}), *argv])}")
        return 0

    async def logs(
        self, project: str, name: str, *, since: float = 0, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[str]:
        await self._host.call("logs", name)
        container = self._own(project, name, "read the log of")
        if container.started > since and tail != 0 and not follow:
            yield f"(a fake container) {name} started"

    async def put(self, project: str, name: str, folder: str, archive: Pieces) -> None:
        await self._host.call("put_in_container", name)
        container = self._own(project, name, "copy files into")
        with tarfile.open(fileobj=io.BytesIO(await _whole(archive))) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isfile() else None
                if file is not None:
                    path = str(PurePosixPath(folder, entry.name))
                    container.files[path] = file.read().decode(errors="replace")
        self._keep(name)

    async def get(self, project: str, name: str, path: str) -> AsyncGenerator[bytes]:
        await self._host.call("get_from_container", name)
        container = self._own(project, name, "copy files from")
        parent = PurePosixPath(path).parent
        found = {
            each: text
            for each, text in container.files.items()
            if each == path or each.startswith(f"{path.rstrip('/')}/")
        }
        if not found:
            raise NoSuchPathError(f"cannot copy files from the container {name}: no such file: {path}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for each, text in sorted(found.items()):
                entry = tarfile.TarInfo(str(PurePosixPath(each).relative_to(parent)))
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        yield buffer.getvalue()

    async def usage(self, project: str) -> Mapping[str, Usage]:
        await self._host.call("usage")
        running = {name: each for name, each in self._of(project).items() if each.pid}
        now = time.time()
        return {
            name: Usage(cpu_seconds=(now - each.started) / 100, memory_mb=8) for name, each in running.items()
        }

    async def measure(self) -> HostMeasures:
        await self._host.call("measure_containers")
        now = time.time()
        found = tuple(_measured(name, each, now) for name, each in self._host.world.containers.items())
        return HostMeasures(size=HostSize(cpus=_CPUS, memory_mb=_MEMORY_MB), instances=found)

    async def close(self) -> None:
        """There is no connection."""

    def _of(self, project: str) -> dict[str, FakeContainer]:
        return {name: each for name, each in self._host.world.containers.items() if each.project == project}

    def _own(self, project: str, name: str, verb: str) -> FakeContainer:
        doing = f"{verb} the container {name}"
        if name not in self._host.world.containers:
            raise DriverError(f"cannot {doing}: No such container: {name}")
        self._refuse_foreign(project, name, doing)
        return self._host.world.containers[name]

    def _refuse_foreign(self, project: str, name: str, doing: str) -> None:
        if self._host.world.containers[name].project != project:
            raise DriverError(f"cannot {doing}: another container has this name")

    def _image(self, reference: str) -> str | None:
        named = reference if ":" in reference else f"{reference}:latest"
        for image, each in self._host.world.images.items():
            if reference in (image, *_digests(image, each)) or named in each.tags:
                return image
        return None

    def _end(self, name: str, container: FakeContainer, code: int) -> None:
        """Its processes are gone, and with its network namespace the pairs that lead into it."""
        if not container.pid:
            return
        gone: list[Place] = [("links", end) for end in container.nics]
        for end in container.nics:
            self._host.world.links.pop(end, None)
        container.nics, container.pid = {}, 0
        container.state, container.health, container.exit_code = "exited", "", code
        container.reason = "killed by SIGKILL" if code == _KILLED else None
        self._keep(name, *gone)

    def _keep(self, name: str, *more: Place) -> None:
        self._host.keep(("containers", name), *more)


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
        content = await _whole(archive)
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
        size = len(await _whole(context))
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


def _observed(name: str, each: FakeContainer) -> ObservedContainer:
    return ObservedContainer(
        name=name,
        id=each.id,
        guest=each.guest,
        state=each.state,
        health=each.health,
        made=each.made,
        exit_code=each.exit_code,
        reason=each.reason,
        started=each.started or None,
        pid=each.pid,
        image=each.image,
    )


async def _whole(pieces: Pieces) -> bytes:
    return b"".join([piece async for piece in pieces])
