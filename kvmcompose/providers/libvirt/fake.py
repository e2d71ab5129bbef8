"""A simulated libvirt."""

from __future__ import annotations

import asyncio
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from kvmcompose.core.model import PROJECTS_ROOT
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import FakeDisk, FakeDomain, FakeNic, SimulatedHost, World
from kvmcompose.providers.libvirt.interface import DomainState, HypervisorFacts, SnapshotState

_OPENVSWITCH = "virtualport[@type='openvswitch']"
_GUEST = "{urn:kvmcompose:guest:1}guest"
_NETWORK = "{urn:kvmcompose:network:1}network"


def _nics(domain: ET.Element) -> list[FakeNic]:
    """Return the NICs of a domain that are ports of Open vSwitch bridges."""

    def attribute(nic: ET.Element, path: str, name: str) -> str:
        found = nic.find(path)
        return "" if found is None else found.get(name, "")

    return [
        FakeNic(
            tap=attribute(nic, "target", "dev"),
            bridge=attribute(nic, "source", "bridge"),
            mac=attribute(nic, "mac", "address"),
        )
        for nic in domain.iterfind("devices/interface")
        if nic.find(_OPENVSWITCH) is not None
    ]


class FakeHypervisor:
    """See ``Hypervisor``."""

    def __init__(self, host: SimulatedHost, uri: str) -> None:
        self._host = host
        self.uri = uri

    @property
    def _world(self) -> World:
        return self._host.world

    async def facts(self) -> HypervisorFacts:
        await self._host.call("facts")
        return HypervisorFacts(cpus=64, memory_mb=1 << 20, version="fake")

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        await self._host.call("foreign_domains", project)
        others = {name for name, each in self._world.domains.items() if each.project != project}
        found = [f"domain {name}" for name in domains if name in others]
        owners = self._world.networks
        return found + [f"network {name}" for name in networks if owners.get(name, project) != project]

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        await self._host.call("domains", project)
        now = time.time()
        return {
            name: DomainState(
                name=name,
                guest=domain.guest,
                state="running" if domain.started else "shut off",
                uptime=now - domain.started if domain.started else None,
                cpu_seconds=(now - domain.started) / 10 if domain.started else None,
                memory_mb=64 if domain.started else None,
            )
            for name, domain in self._world.domains.items()
            if domain.project == project
        }

    async def start_domain(self, xml: str) -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        guest = tree.find(f"metadata/{_GUEST}")
        await self._host.call("start_domain", name)
        if guest is None:
            raise DriverError(f"{name}: the domain does not say that it is kvm-compose's")
        source = tree.find("devices/disk/source")
        disk = self._disk_path(guest.attrib["project"], source.attrib["file"] if source is not None else "")
        domain = self._world.domains.setdefault(
            name, FakeDomain(guest.attrib["project"], guest.attrib["name"], disk=disk)
        )
        if not domain.started:
            self._world.plug(name, _nics(tree))
        domain.started = domain.started or time.time()
        held = self._world.disks.setdefault(disk, FakeDisk())
        if held.frozen:
            raise DriverError(f"{name}: its disk is frozen")
        held.written = True
        held.version += 1
        self._host.keep()

    def _disk_path(self, project: str, path: str) -> str:
        """Return where a disk is: the path in the XML leads through the host's link to the project."""
        folder = self._world.projects.get(project)
        name = path.removeprefix(f"{PROJECTS_ROOT}/{project}")
        return path if folder is None or name == path else f"{folder}{name}"

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        await self._host.call("shut_down_domain", name)
        self._stop(name)
        return seconds > 0

    async def wait_off(self, name: str) -> None:
        await self._host.call("wait_off", name)
        while self._world.domains.get(name, FakeDomain("", "")).started:  # noqa: ASYNC110 (a fake may)
            await asyncio.sleep(0.05)

    async def destroy_domain(self, name: str) -> None:
        await self._host.call("destroy_domain", name)
        self._stop(name)

    def _stop(self, name: str) -> None:
        if name in self._world.domains:
            self._world.domains[name].started = 0
            self._world.unplug(name)
            self._host.keep()

    async def undefine_domain(self, name: str) -> None:
        await self._host.call("undefine_domain", name)
        if name in self._world.domains and self._world.domains[name].started:
            raise DriverError(f"{name} runs")
        self._world.domains.pop(name, None)
        self._host.keep()

    async def networks(self, project: str) -> Mapping[str, bool]:
        await self._host.call("networks", project)
        return {name: True for name, owner in self._world.networks.items() if owner == project}

    async def start_network(self, xml: str) -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        await self._host.call("start_network", name)
        mark = tree.find(f"metadata/{_NETWORK}")
        self._world.networks[name] = mark.attrib["project"] if mark is not None else ""
        self._host.keep()

    async def leases(self, network: str) -> Mapping[str, str]:
        await self._host.call("leases", network)
        return {}

    async def remove_network(self, name: str) -> None:
        await self._host.call("remove_network", name)
        self._world.networks.pop(name, None)
        self._host.keep()

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        await self._host.call("snapshots", domain)
        found = self._world.domains.get(domain, FakeDomain("", "")).snapshots
        last = next(reversed(found), None)
        return [
            SnapshotState(name=name, created=0, state="running", current=name == last, xml=xml)
            for name, xml in found.items()
        ]

    async def create_snapshot(self, domain: str, name: str) -> None:
        await self._host.call("create_snapshot", domain)
        xml = f"<domainsnapshot><name>{name}</name><state>running</state></domainsnapshot>"
        self._domain(domain).snapshots[name] = xml
        self._host.keep()

    async def restore_snapshot(self, domain: str, name: str) -> None:
        await self._host.call("restore_snapshot", domain)
        if name not in self._domain(domain).snapshots:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._domain(domain).started = time.time()
        self._host.keep()

    async def delete_snapshot(self, domain: str, name: str) -> None:
        await self._host.call("delete_snapshot", domain)
        if self._domain(domain).snapshots.pop(name, None) is None:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._host.keep()

    async def know_snapshot(self, domain: str, xml: str) -> None:
        await self._host.call("know_snapshot", domain)
        name = ET.fromstring(xml).findtext("name") or ""  # noqa: S314 (see above)
        self._domain(domain).snapshots[name] = xml
        self._host.keep()

    def _domain(self, name: str) -> FakeDomain:
        if name not in self._world.domains:
            raise DriverError(f"there is no domain {name}")
        return self._world.domains[name]

    async def close(self) -> None:
        """Nothing to close."""
