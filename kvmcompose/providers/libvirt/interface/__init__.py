"""libvirt on one host, in parts by subject: a module of this package has each, with its own types.

All drivers are called from one event loop and must not block it. Failures raise DriverError, whose message
names what was attempted. Every call is idempotent: starting what runs, or removing what is gone, is no error.
Names are those on the host, from ``state.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import HardwareNeed
from kvmcompose.core.instance import HostMeasures, HostSize
from kvmcompose.providers.libvirt.interface.agents import DomainAgents
from kvmcompose.providers.libvirt.interface.consoles import DomainConsoles
from kvmcompose.providers.libvirt.interface.devices import DomainDevices
from kvmcompose.providers.libvirt.interface.domains import Domains
from kvmcompose.providers.libvirt.interface.networks import Networks
from kvmcompose.providers.libvirt.interface.snapshots import DomainSnapshots


class DomainNeed(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a domain needs of its host. ``arch``, ``machine`` and ``virt_type`` are in libvirt's words.

    ``virtiofs``: it has shares by it, ``readonly_virtiofs``: some of them read-only.
    """

    arch: str
    machine: str
    virt_type: str
    uefi: bool = False
    secure_boot: bool = False
    tpm: bool = False
    virtiofs: bool = False
    readonly_virtiofs: bool = False
    hardware: HardwareNeed = HardwareNeed()


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has of what a domain needs. ``reason`` says why its guest cannot run there at all.

    ``cpu_modes``, ``graphics`` and ``videos`` are empty where an old libvirt does not tell. ``cpu_models``
    are those that it knows, with whether they can be used. ``free_pages`` is the number of huge pages of the
    wanted size that nothing uses, None where the host does not support that size. ``pci``: guests can have
    PCI devices.
    """

    reason: str = ""
    uefi: bool = False
    secure_boot: bool = False
    tpm: bool = False
    cpu_modes: frozenset[str] = frozenset()
    cpu_models: Mapping[str, bool] = {}
    graphics: frozenset[str] = frozenset()
    videos: frozenset[str] = frozenset()
    free_pages: int | None = None
    pci: bool = True
    virtiofs: bool = False
    readonly_virtiofs: bool = False


class HypervisorFacts(HostSize, frozen=True, kw_only=True):
    """A host as libvirt sees it, and libvirt's version."""

    version: str


class Hypervisor(Protocol):
    """libvirt on one host."""

    domains: Domains
    devices: DomainDevices
    networks: Networks
    snapshots: DomainSnapshots
    consoles: DomainConsoles
    agents: DomainAgents

    async def facts(self) -> HypervisorFacts:
        """Return facts about the host. Raises DriverError when it does not answer."""

    async def capabilities(self, need: DomainNeed) -> Capabilities:
        """Return what the host has of what a domain needs."""

    async def measure(self) -> HostMeasures:
        """Return what the domains of all projects have used."""

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        """Return which of these names are taken by objects that are not the project's, as ``domain NAME`` and
        ``network NAME``.
        """

    async def close(self) -> None:
        """Close the connection."""
