"""A simulated libvirt."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from kvmcompose.core.instance import HostMeasures, HostSize, Measured
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDomain
from kvmcompose.providers.libvirt.fake_agents import FakeAgents, Inside
from kvmcompose.providers.libvirt.fake_consoles import FakeConsoles, FakeTerminals
from kvmcompose.providers.libvirt.fake_devices import FakeDevices
from kvmcompose.providers.libvirt.fake_domains import FakeDomains, state_of
from kvmcompose.providers.libvirt.fake_networks import FakeNetworks
from kvmcompose.providers.libvirt.fake_snapshots import FakeSnapshots
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed, HypervisorFacts
from kvmcompose.providers.libvirt.interface.agents import DomainAgents
from kvmcompose.providers.libvirt.interface.consoles import DomainConsoles
from kvmcompose.providers.libvirt.interface.devices import DomainDevices
from kvmcompose.providers.libvirt.interface.domains import Domains
from kvmcompose.providers.libvirt.interface.networks import Networks
from kvmcompose.providers.libvirt.interface.snapshots import DomainSnapshots

_CPUS, _MEMORY_MB = 64, 1 << 20
#: Its free huge pages, of each size.
_FREE_PAGES = 1024
_MIB = 1 << 20


class FakeHypervisor:
    """See ``Hypervisor``."""

    def __init__(self, host: SimulatedHost, inside: Inside) -> None:
        """``inside`` runs a command in a domain, as its guest agent does."""
        self._host = host
        self._terminals = FakeTerminals()
        self.domains: Domains = FakeDomains(host, self._terminals)
        self.devices: DomainDevices = FakeDevices(host)
        self.networks: Networks = FakeNetworks(host)
        self.snapshots: DomainSnapshots = FakeSnapshots(host)
        self.consoles: DomainConsoles = FakeConsoles(host, self._terminals)
        self.agents: DomainAgents = FakeAgents(host, inside)

    async def facts(self) -> HypervisorFacts:
        await self._host.call("facts")
        return HypervisorFacts(cpus=_CPUS, memory_mb=_MEMORY_MB, version="fake")

    async def capabilities(self, need: DomainNeed) -> Capabilities:
        await self._host.call("capabilities", need.arch)
        return Capabilities(
            uefi=True,
            secure_boot=need.arch == "x86_64",
            tpm=True,
            virtiofs=True,
            free_pages=_FREE_PAGES,
        )

    async def measure(self) -> HostMeasures:
        await self._host.call("measure_domains")
        now = time.time()
        found = tuple(_measured(name, domain, now) for name, domain in self._host.world.domains.items())
        return HostMeasures(size=HostSize(cpus=_CPUS, memory_mb=_MEMORY_MB), instances=found)

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        await self._host.call("foreign_domains", project)
        others = {name for name, each in self._host.world.domains.items() if each.project != project}
        found = [f"domain {name}" for name in domains if name in others]
        owners = self._host.world.networks
        return found + [f"network {name}" for name in networks if owners.get(name, project) != project]

    async def close(self) -> None:
        """Close what is open of consoles."""
        await self._terminals.end()


def _measured(name: str, domain: FakeDomain, now: float) -> Measured:
    """Return what a domain has used: it works evenly."""
    found = Measured(project=domain.project, name=name, state=state_of(domain))
    if not domain.started:
        return found
    age = now - domain.started
    turns = int(age)
    return msgspec.structs.replace(
        found,
        uptime=age,
        cpu_seconds=age / 10,
        memory=64 * _MIB,
        used=48 * _MIB,
        reads=2 * turns,
        read_bytes=8192 * turns,
        writes=turns,
        written_bytes=4096 * turns,
        received_packets=3 * turns,
        received_bytes=1500 * turns,
        sent_packets=turns,
        sent_bytes=500 * turns,
    )
