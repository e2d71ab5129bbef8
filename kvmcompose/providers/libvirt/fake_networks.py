"""The networks of a simulated libvirt."""

from __future__ import annotations

from collections.abc import Mapping

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import World, network_places
from kvmcompose.providers.libvirt.definitions import Ownership, network_identity, refuse_foreign, with_digest
from kvmcompose.providers.libvirt.interface import FoundNetwork
from kvmcompose.providers.libvirt.network_entries import difference


class FakeNetworks:
    """See ``Hypervisor``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    @property
    def _world(self) -> World:
        return self._host.world

    async def networks(self, project: str) -> Mapping[str, bool]:
        await self._host.call("networks", project)
        return {name: network.active for name, network in self._networks(project).items()}

    async def found_networks(self, project: str) -> Mapping[str, FoundNetwork]:
        await self._host.call("found_networks", project)
        return self._networks(project)

    def _networks(self, project: str) -> dict[str, FoundNetwork]:
        return {name: self._found(name) for name, owner in self._world.networks.items() if owner == project}

    def _found(self, name: str) -> FoundNetwork:
        xml = self._world.network_definitions.get(name, "")
        active = name not in self._world.stopped_networks
        digest = network_identity(xml).digest if xml else None
        return FoundNetwork(name=name, active=active, digest=digest, xml=xml)

    async def start_network(self, xml: str) -> None:
        marked, digest = with_digest(xml)
        wanted = network_identity(marked)
        await self._host.call("start_network", wanted.name)
        if wanted.name in self._world.networks:
            refuse_foreign("network", wanted, self._world.networks[wanted.name])
            known = self._found(wanted.name)
            if known.active and known.xml:
                if known.digest != digest:
                    raise DriverError(f"the network {wanted.name} is active with another definition")
                return
        self._define_network(wanted, marked)

    def _define_network(self, wanted: Ownership, marked: str) -> None:
        world = self._world
        world.networks[wanted.name] = wanted.project or ""
        world.network_definitions[wanted.name] = marked
        world.stopped_networks = [name for name in world.stopped_networks if name != wanted.name]
        self._host.keep(*network_places(wanted.name))

    async def update_network(self, xml: str) -> bool:
        marked, _ = with_digest(xml)
        wanted = network_identity(marked)
        await self._host.call("update_network", wanted.name)
        if wanted.name not in self._world.networks:
            raise DriverError(f"there is no network {wanted.name}")
        refuse_foreign("network", wanted, self._world.networks[wanted.name])
        known = self._found(wanted.name)
        differs = difference(xml, known)
        if known.active and differs is not None and differs.other:
            return False
        stopped = list(self._world.stopped_networks)
        self._define_network(wanted, marked)
        self._world.stopped_networks = stopped
        self._host.keep(("stopped_networks",))
        return True

    async def leases(self, network: str) -> Mapping[str, str]:
        await self._host.call("leases", network)
        return dict(self._world.leases)

    async def remove_network(self, name: str) -> None:
        await self._host.call("remove_network", name)
        self._host.keep(*self._world.drop_network(name))
