"""The networks of a simulated libvirt."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping
from functools import lru_cache
from ipaddress import IPv4Network
from zlib import crc32

from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import World, network_places
from kvmcompose.providers.libvirt.definitions import Ownership, network_identity, refuse_foreign
from kvmcompose.providers.libvirt.interface.networks import FoundNetwork
from kvmcompose.providers.libvirt.network_definitions import with_digest
from kvmcompose.providers.libvirt.network_entries import EditCommand, addresses, difference, name_edits


def _lease(subnet: IPv4Network, mac: str) -> str:
    return str(subnet[2 + crc32(mac.encode()) % (subnet.num_addresses - 3)])


#: Each look asks for it.
_identity = lru_cache(maxsize=4)(network_identity)


def _marked(xml: str) -> tuple[Ownership, str, str]:
    """Return whose a network is, its definition as it is started, and the digest of that."""
    marked, digest = with_digest(xml)
    return _identity(marked), marked, digest


class FakeNetworks:
    """See ``Networks``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    @property
    def _world(self) -> World:
        return self._host.world

    async def observe(self, project: str) -> Mapping[str, FoundNetwork]:
        await self._host.call("found_networks", project)
        return self._networks(project)

    def _networks(self, project: str) -> dict[str, FoundNetwork]:
        return {name: self._found(name) for name, owner in self._world.networks.items() if owner == project}

    def _found(self, name: str) -> FoundNetwork:
        xml = self._world.network_definitions.get(name, "")
        active = name not in self._world.stopped_networks
        digest = _identity(xml).digest if xml else None
        edited = name in self._world.edited_networks
        return FoundNetwork(name=name, active=active, digest=digest, xml=xml, edited=edited)

    async def start(self, xml: str) -> None:
        wanted, marked, digest = await in_thread(_marked, xml)
        await self._host.call("start_network", wanted.name)
        if wanted.name in self._world.networks:
            refuse_foreign("network", wanted, self._world.networks[wanted.name])
            known = self._found(wanted.name)
            if known.active and known.xml:
                if known.digest != digest:
                    raise DriverError(f"the network {wanted.name} is active with another definition")
                return
        self._define(wanted, marked)

    def _define(self, wanted: Ownership, marked: str) -> None:
        world = self._world
        world.networks[wanted.name] = wanted.project or ""
        world.network_definitions[wanted.name] = marked
        world.stopped_networks = [name for name in world.stopped_networks if name != wanted.name]
        world.edited_networks = [name for name in world.edited_networks if name != wanted.name]
        self._host.keep(*network_places(wanted.name))

    async def update(self, xml: str, names: Collection[str] = ()) -> bool:
        wanted, marked, _ = await in_thread(_marked, xml)
        await self._host.call("update_network", wanted.name)
        if wanted.name not in self._world.networks:
            raise DriverError(f"there is no network {wanted.name}")
        refuse_foreign("network", wanted, self._world.networks[wanted.name])
        known = self._found(wanted.name)
        differs = await in_thread(difference, xml, known, tuple(names))
        if known.active and differs is not None and differs.other:
            return False
        if known.active and known.xml and names:
            marked = await in_thread(_with_names_of, wanted.name, marked, known.xml, names)
        stopped = list(self._world.stopped_networks)
        self._define(wanted, marked)
        self._world.stopped_networks = stopped
        self._host.keep(*network_places(wanted.name))
        return True

    async def put_names(self, network: str, names: Mapping[str, str | None]) -> None:
        await self._host.call("put_names", network)
        if network in self._world.networks and network not in self._world.stopped_networks:
            xml = self._world.network_definitions[network]
            self._world.network_definitions[network] = _with_names(network, xml, names)
            self._host.keep(*network_places(network))

    async def leases(self, network: str) -> Mapping[str, str]:
        """Every guest that is on has one, from its MAC address, unless it got it from an earlier network."""
        await self._host.call("leases", network)
        subnet = self._subnet(network)
        held = [] if subnet is None else self._host.macs_on()
        found = {mac: _lease(subnet, mac) for mac in held if subnet and mac not in self._world.unleased}
        return {**found, **self._world.leases}

    async def answers(self, mac: str, address: str) -> bool:
        await self._host.call("answers", address)
        subnets = map(self._subnet, self._world.networks)
        return mac in self._host.macs_on() and address in [_lease(each, mac) for each in subnets if each]

    def _subnet(self, network: str) -> IPv4Network | None:
        xml = self._world.network_definitions.get(network)
        ip = ET.fromstring(xml).find("ip") if xml else None  # noqa: S314 (written by our builds and tests)
        if ip is None or ip.find("dhcp") is None:
            return None
        return IPv4Network(f"{ip.get('address')}/{ip.get('prefix')}", strict=False)

    async def remove(self, name: str) -> None:
        await self._host.call("remove_network", name)
        if name in self._world.networks:
            self._world.unleased = sorted(self._host.macs_on())
        self._host.keep(("unleased",), *self._world.drop_network(name))


def _with_names_of(network: str, xml: str, there: str, names: Collection[str]) -> str:
    """Return a definition with those of some names that are in another one."""
    known = addresses(there, alone=True)
    return _with_names(network, xml, {name: known[name] for name in names if name in known})


def _with_names(network: str, xml: str, names: Mapping[str, str | None]) -> str:
    """Do to a definition what libvirt does to what it has of it in memory."""
    edits = name_edits(xml, names)
    if edits is None:
        raise DriverError(f"cannot change names in the network {network}")
    root = ET.fromstring(xml)  # noqa: S314 (written by our builds and tests)
    dns = root.find("dns")
    if dns is None:
        dns = ET.SubElement(root, "dns")
    for edit in edits:
        host = ET.fromstring(edit.xml)  # noqa: S314 (written by our builds and tests)
        if edit.command is EditCommand.DELETE:
            for each in dns.findall("host"):
                if {host.get("ip"), host.findtext("hostname")} & {each.get("ip"), each.findtext("hostname")}:
                    dns.remove(each)
        else:
            dns.append(host)
    return ET.tostring(root, encoding="unicode")
