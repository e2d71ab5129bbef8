"""The container engine of one host, in parts by subject: a module of this package has each, with its types.

All drivers are called from one event loop and must not block it. Failures raise DriverError, whose message
names what was attempted. Every call is idempotent unless it says otherwise: starting what runs, or removing
what is gone, is no error. Names are those on the host. A container that does not carry the label of the
project is never touched: a call that names one raises DriverError.
"""

from __future__ import annotations

from typing import Protocol

from kvmcompose.core.instance import HostMeasures, HostSize
from kvmcompose.providers.containers.interface.containers import Containers
from kvmcompose.providers.containers.interface.images import ContainerImages
from kvmcompose.providers.containers.interface.inside import ContainerInside


class EngineFacts(HostSize, frozen=True, kw_only=True):
    """A container engine: ``Docker`` or ``Podman``, its version, and the host as it sees it.

    ``limits`` is whether it can limit and measure what a container uses,
    and pause it: a rootless engine cannot under version 1 of control groups.
    """

    engine: str
    version: str
    rootless: bool
    limits: bool


class ContainerEngine(Protocol):
    """The container engine of one host."""

    containers: Containers
    inside: ContainerInside
    images: ContainerImages

    async def facts(self) -> EngineFacts:
        """Return facts about the engine. Raises DriverError when none answers."""

    async def measure(self) -> HostMeasures:
        """Return what the containers of all projects have used; states are the engine's terms.

        An engine that measures nothing (``EngineFacts.limits``) knows their states alone.
        """

    async def close(self) -> None:
        """Close the connections."""
