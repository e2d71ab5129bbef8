"""The container engine of one host, Docker or Podman's service."""

from __future__ import annotations

from functools import partial

from kvmcompose.core.instance import HostMeasures
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.providers.containers import measuring
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.containers import EngineContainers
from kvmcompose.providers.containers.images import EngineImages
from kvmcompose.providers.containers.inside import EngineInside
from kvmcompose.providers.containers.interface import EngineFacts
from kvmcompose.providers.containers.interface.containers import Containers
from kvmcompose.providers.containers.interface.images import ContainerImages
from kvmcompose.providers.containers.interface.inside import ContainerInside


class HostEngine:
    """See ``ContainerEngine``. ``runner`` runs programs on the engine's host."""

    def __init__(self, engine: EngineConnection, runner: CommandRunner) -> None:
        self._engine = engine
        self._runner = runner
        #: What was asked once, for measurements.
        self._facts: EngineFacts | None = None
        self.containers: Containers = EngineContainers(engine, runner.name)
        self.inside: ContainerInside = EngineInside(engine, runner)
        self.images: ContainerImages = EngineImages(engine, runner.name)

    async def facts(self) -> EngineFacts:
        return await self._engine.facts()

    async def measure(self) -> HostMeasures:
        if self._facts is None:
            self._facts = await self.facts()
        ids = await self._engine.call("list containers", measuring.listed)
        look = partial(measuring.measured, limits=self._facts.limits)
        found = await self._engine.for_each(ids, look)
        return await measuring.measures(self._facts, found, self._runner)

    async def close(self) -> None:
        await self._engine.close()
