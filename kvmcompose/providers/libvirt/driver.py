"""libvirt on one host, through libvirt-python."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvmcompose.core.instance import HostMeasures
from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.providers.libvirt import host
from kvmcompose.providers.libvirt.agents import LibvirtAgents
from kvmcompose.providers.libvirt.connection import Connection
from kvmcompose.providers.libvirt.consoles import LibvirtConsoles
from kvmcompose.providers.libvirt.devices import LibvirtDevices
from kvmcompose.providers.libvirt.domains import LibvirtDomains
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed, HypervisorFacts
from kvmcompose.providers.libvirt.interface.agents import DomainAgents
from kvmcompose.providers.libvirt.interface.consoles import DomainConsoles
from kvmcompose.providers.libvirt.interface.devices import DomainDevices
from kvmcompose.providers.libvirt.interface.domains import Domains
from kvmcompose.providers.libvirt.interface.networks import Networks
from kvmcompose.providers.libvirt.interface.snapshots import DomainSnapshots
from kvmcompose.providers.libvirt.measuring import DomainMeter
from kvmcompose.providers.libvirt.networks import LibvirtNetworks
from kvmcompose.providers.libvirt.snapshots import LibvirtSnapshots

#: Succeeds where virtiofsd is installed (QEMU, "Vhost-user back-ends": libvirt looks for it in the same way).
_FIND_VIRTIOFSD = (
    "cat /etc/qemu/vhost-user/*.json /usr/share/qemu/vhost-user/*.json 2>/dev/null"
    """ | grep -q '"type": *"fs"'"""
)


class Libvirt:
    """The libvirt of one host. ``runner`` runs what libvirt has no call for.

    ``uri`` is its address as seen from here, ``where`` how messages name it.
    """

    def __init__(self, uri: LibvirtUri, runner: CommandRunner, where: str | None = None) -> None:
        self._runner = runner
        connection, asking = (Connection(uri, where or f"at {uri}", runner) for _ in range(2))
        self._connection = connection
        self._asking = asking
        self._meter = DomainMeter(connection, runner)
        self.domains: Domains = LibvirtDomains(connection, runner)
        self.devices: DomainDevices = LibvirtDevices(connection, runner)
        self.networks: Networks = LibvirtNetworks(connection, runner)
        self.snapshots: DomainSnapshots = LibvirtSnapshots(connection, runner)
        self.consoles: DomainConsoles = LibvirtConsoles(connection, runner)
        self.agents: DomainAgents = LibvirtAgents(connection, asking)

    async def facts(self) -> HypervisorFacts:
        """Return processors, memory and versions of the host."""
        return await self._connection.call("read the facts of the host", host.facts)

    async def capabilities(self, need: DomainNeed) -> Capabilities:
        doing = f"ask what it has for {need.arch} guests"
        found = await self._connection.call(doing, host.capabilities, need=need)
        if need.virtiofs and found.virtiofs:
            # libvirt speaks of QEMU alone, and the daemon is another program
            there = await self._runner.run(["sh", "-c", _FIND_VIRTIOFSD], check=False)
            found = msgspec.structs.replace(found, virtiofs=there.status == 0)
        return found

    async def measure(self) -> HostMeasures:
        return await self._meter.measure()

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        names = {"domain_names": domains, "network_names": networks}
        doing = "list domains and networks"
        return await self._connection.call(doing, host.foreign, project=project, **names)

    async def close(self) -> None:
        await self._connection.close()
        await self._asking.close()
