"""Containers of a simulated host."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from kvmcompose.core.instance import Usage
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeContainer, Place
from kvmcompose.providers.containers.fake_images import image_of
from kvmcompose.providers.containers.fake_ownership import own, refuse_foreign
from kvmcompose.providers.containers.interface.containers import (
    HalfStartedError,
    ObservedContainer,
    following,
)

_KILLED = 137


class FakeContainers:
    """See ``Containers``."""

    def __init__(self, host: SimulatedHost, kill_terminals: Callable[[str], None]) -> None:
        """``kill_terminals`` ends those of a container that ends."""
        self._host = host
        self._kill_terminals = kill_terminals

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
        return _observed(name, own(self._host, project, name, "look at"))

    async def create(
        self, project: str, guest: str, name: str, request: Mapping[str, Any], made: str = ""
    ) -> str:
        await self._host.call("create_container", name)
        doing = f"create the container {name}"
        there = self._host.world.containers.get(name)
        if there is not None:
            refuse_foreign(self._host, project, name, doing)
            if there.made != made:
                raise DriverError(f"cannot {doing}: there is one, made from something else")
            return there.id
        image = image_of(self._host, str(request.get("Image", "")))
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
        container = own(self._host, project, name, "start")
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
        self._end(name, own(self._host, project, name, "stop"), 0)

    async def pause(self, project: str, name: str) -> None:
        await self._host.call("pause_container", name)
        container = own(self._host, project, name, "pause")
        if not container.pid:
            raise DriverError(f"cannot pause the container {name}: it is not running")
        container.state = "paused"
        self._keep(name)

    async def unpause(self, project: str, name: str) -> None:
        await self._host.call("unpause_container", name)
        container = own(self._host, project, name, "resume")
        if container.state == "paused":
            container.state = "running"
            self._keep(name)

    async def remove(self, project: str, name: str) -> None:
        await self._host.call("remove_container", name)
        if name in self._host.world.containers:
            self._end(name, own(self._host, project, name, "remove"), _KILLED)
            del self._host.world.containers[name]
            self._keep(name)

    async def usage(self, project: str) -> Mapping[str, Usage]:
        await self._host.call("usage")
        running = {name: each for name, each in self._of(project).items() if each.pid}
        now = time.time()
        return {
            name: Usage(cpu_seconds=(now - each.started) / 100, memory_mb=8) for name, each in running.items()
        }

    def _of(self, project: str) -> dict[str, FakeContainer]:
        return {name: each for name, each in self._host.world.containers.items() if each.project == project}

    def _end(self, name: str, container: FakeContainer, code: int) -> None:
        """Its processes are gone, and with its network namespace the pairs that lead into it."""
        if not container.pid:
            return
        self._kill_terminals(name)
        gone: list[Place] = [("links", end) for end in container.nics]
        for end in container.nics:
            self._host.world.links.pop(end, None)
        container.nics, container.pid = {}, 0
        container.state, container.health, container.exit_code = "exited", "", code
        container.reason = "killed by SIGKILL" if code == _KILLED else None
        self._keep(name, *gone)

    def _keep(self, name: str, *more: Place) -> None:
        self._host.keep(("containers", name), *more)


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
