"""A simulated container engine."""

from __future__ import annotations

import time

import msgspec

from kvmcompose.core.instance import HostMeasures, HostSize, Measured
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeContainer
from kvmcompose.providers.containers.fake_containers import FakeContainers
from kvmcompose.providers.containers.fake_images import FakeImages
from kvmcompose.providers.containers.fake_inside import FakeInside
from kvmcompose.providers.containers.interface import EngineFacts
from kvmcompose.providers.containers.interface.containers import Containers
from kvmcompose.providers.containers.interface.images import ContainerImages
from kvmcompose.providers.containers.interface.inside import ContainerInside

_CPUS, _MEMORY_MB = 8, 16384


class FakeEngine:
    """See ``ContainerEngine``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        inside = FakeInside(host)
        self.containers: Containers = FakeContainers(host, inside.kill_terminals)
        self.inside: ContainerInside = inside
        self.images: ContainerImages = FakeImages(host)

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

    async def measure(self) -> HostMeasures:
        await self._host.call("measure_containers")
        now = time.time()
        found = tuple(_measured(name, each, now) for name, each in self._host.world.containers.items())
        return HostMeasures(size=HostSize(cpus=_CPUS, memory_mb=_MEMORY_MB), instances=found)

    async def close(self) -> None:
        """There is no connection."""


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
