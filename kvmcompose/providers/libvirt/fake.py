"""A simulated libvirt."""

from __future__ import annotations

import asyncio
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from kvmcompose.core.model import PROJECTS_ROOT
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import FakeDisk, FakeDomain, FakeNic, SimulatedHost, World
from kvmcompose.providers.libvirt.definitions import Ownership, network_identity, refuse_foreign, with_digest
from kvmcompose.providers.libvirt.interface import DomainState, FoundNetwork, HypervisorFacts, SnapshotState
from kvmcompose.providers.libvirt.network_entries import difference

_OPENVSWITCH = "virtualport[@type='openvswitch']"
_GUEST = "{urn:kvmcompose:guest:1}guest"


def _state(domain: FakeDomain) -> str:
    if not domain.started:
        return "shut off"
    return "paused" if domain.paused else "running"


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
                state=_state(domain),
                reason=(domain.paused if domain.started else domain.off) or None,
                made=domain.made if domain.started else domain.defined,
                uptime=now - domain.started if domain.started else None,
                cpu_seconds=(now - domain.started) / 10 if domain.started else None,
                memory_mb=64 if domain.started else None,
            )
            for name, domain in self._world.domains.items()
            if domain.project == project
        }

    async def start_domain(self, xml: str, made: str = "") -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        await self._host.call("start_domain", name)
        if name in self._world.domains and self._world.domains[name].started:
            return
        domain = self._define(name, tree, made)
        self._world.plug(name, _nics(tree))
        held = self._world.disks.setdefault(domain.disk, FakeDisk())
        if held.frozen:
            raise DriverError(f"{name}: its disk is frozen")
        domain.started, domain.paused, domain.made = time.time(), "", domain.defined
        held.written = True
        held.version += 1
        self._host.keep()

    async def define_domain(self, xml: str, made: str = "") -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        await self._host.call("define_domain", name)
        self._define(name, tree, made)
        self._host.keep()

    def _define(self, name: str, tree: ET.Element, made: str) -> FakeDomain:
        guest = tree.find(f"metadata/{_GUEST}")
        if guest is None:
            raise DriverError(f"{name}: the domain does not say that it is kvm-compose's")
        project = guest.attrib["project"]
        domain = self._world.domains.setdefault(name, FakeDomain(project, guest.attrib["name"]))
        if domain.project != project:
            raise DriverError(f"there already is a domain {name} of the project {domain.project}")
        source = tree.find("devices/disk/source")
        if not domain.started:
            domain.disk = self._disk_path(project, source.attrib["file"] if source is not None else "")
        domain.defined = made
        return domain

    async def stamp_domain(self, name: str, made: str) -> None:
        await self._host.call("stamp_domain", name)
        domain = self._domain(name)
        domain.made = domain.defined = made
        self._host.keep()

    async def resume_domain(self, name: str) -> None:
        await self._host.call("resume_domain", name)
        self._running(name, "resume").paused = ""
        self._host.keep()

    async def suspend_domain(self, name: str) -> None:
        await self._host.call("suspend_domain", name)
        domain = self._running(name, "suspend")
        domain.paused = domain.paused or "by user"
        self._host.keep()

    def _running(self, name: str, verb: str) -> FakeDomain:
        domain = self._domain(name)
        if not domain.started:
            raise DriverError(f"cannot {verb} the domain {name}: it is off")
        return domain

    def _disk_path(self, project: str, path: str) -> str:
        """Return where a disk is: the path in the XML leads through the host's link to the project."""
        folder = self._world.projects.get(project)
        name = path.removeprefix(f"{PROJECTS_ROOT}/{project}")
        return path if folder is None or name == path else f"{folder}{name}"

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        await self._host.call("shut_down_domain", name)
        if self._world.domains.get(name, FakeDomain("", "")).paused:  # it does not see the button
            return False
        self._stop(name, "shutdown")
        return seconds > 0

    async def wait_off(self, name: str) -> None:
        await self._host.call("wait_off", name)
        while self._world.domains.get(name, FakeDomain("", "")).started:  # noqa: ASYNC110 (a fake may)
            await asyncio.sleep(0.05)

    async def destroy_domain(self, name: str) -> None:
        await self._host.call("destroy_domain", name)
        self._stop(name, "destroyed")

    def _stop(self, name: str, why: str) -> None:
        domain = self._world.domains.get(name)
        if domain is not None and domain.started:
            domain.started, domain.paused, domain.off = 0, "", why
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
        self._host.keep()

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
        return True

    async def leases(self, network: str) -> Mapping[str, str]:
        await self._host.call("leases", network)
        return {}

    async def remove_network(self, name: str) -> None:
        await self._host.call("remove_network", name)
        self._world.networks.pop(name, None)
        self._world.network_definitions.pop(name, None)
        if name in self._world.stopped_networks:
            self._world.stopped_networks.remove(name)
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
        restored = self._domain(domain)
        restored.started, restored.paused = time.time(), ""
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
