"""A simulated libvirt."""

from __future__ import annotations

import asyncio
import re
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.instance import HostMeasures, HostSize, Measured
from kvmcompose.core.model import PROJECTS_ROOT
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDisk, FakeDomain, FakeHardware, FakeNic, Place, interface_id
from kvmcompose.providers.libvirt.agent import ANSWER_SECONDS, AgentCommand
from kvmcompose.providers.libvirt.definitions import cpus, disk_targets, further_disks, nic_vlan, nics
from kvmcompose.providers.libvirt.fake_agent import FakeAgents, Inside
from kvmcompose.providers.libvirt.fake_consoles import FakeConsoles
from kvmcompose.providers.libvirt.fake_networks import FakeNetworks
from kvmcompose.providers.libvirt.interface import (
    Capabilities,
    DomainEvent,
    DomainNeed,
    DomainNic,
    DomainState,
    HypervisorFacts,
    ObservedDomain,
    Screen,
    SnapshotState,
    TpmHolder,
    following,
)

#: The digest of the seed, in what a domain was made from.
_SEED = re.compile(r'"seed":"(\w+)"')
_CPUS, _MEMORY_MB = 64, 1 << 20
#: Its free huge pages, of each size.
_FREE_PAGES = 1024
_MIB = 1 << 20
_OPENVSWITCH = "virtualport[@type='openvswitch']"
_GUEST = "{urn:kvmcompose:guest:1}guest"


def _state(domain: FakeDomain) -> str:
    if not domain.started:
        return "shut off"
    if domain.paused == "pmsuspended":
        return "pmsuspended"
    return "paused" if domain.paused else "running"


def _reason(domain: FakeDomain) -> str | None:
    why = domain.paused if domain.started else domain.off
    return None if why == "pmsuspended" else why or None


def hardware(domain: ET.Element) -> FakeHardware:
    """Return what a domain has, by its XML."""
    vcpu, graphics = domain.find("vcpu"), domain.find("devices/graphics")
    most = _mib(domain.find("memory")) or 64
    return FakeHardware(
        memory_mb=_mib(domain.find("currentMemory")) or most,
        most_memory_mb=most,
        cpus=cpus(domain),
        most_cpus=1 if vcpu is None else int(vcpu.text or 1),
        nics=[_nic(nic) for nic in domain.iterfind("devices/interface")],
        disks=disk_targets(domain),
        further=list(further_disks(domain)),
        screen=graphics.get("type", "") if graphics is not None else "",
    )


def _mib(element: ET.Element | None) -> int:
    if element is None:
        return 0
    number = int(element.text or 0)
    return {"MiB": number, "GiB": number << 10}.get(element.get("unit", "KiB"), number >> 10)


def _nic(xml: ET.Element) -> FakeNic:
    (nic,) = nics(xml)
    parameters = xml.find("virtualport/parameters")
    interface_id = None if parameters is None else parameters.get("interfaceid")
    return FakeNic(
        nic.target,
        nic.source,
        nic.mac,
        network=xml.find(_OPENVSWITCH) is None,
        interface_id=interface_id,
        link=nic.link,
        bandwidth=nic.bandwidth,
        vlan=nic_vlan(xml),
    )


def _both(domain: FakeDomain) -> list[FakeHardware]:
    """Return what a domain has, and what its definition gives it at the next start."""
    return [domain.hardware] if domain.next_hardware is None else [domain.hardware, domain.next_hardware]


def _measured(name: str, domain: FakeDomain, now: float) -> Measured:
    """Return what a domain has used: it works evenly."""
    found = Measured(project=domain.project, name=name, state=_state(domain))
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


class FakeHypervisor(FakeNetworks):
    """See ``Hypervisor``."""

    def __init__(self, host: SimulatedHost, uri: str, inside: Inside) -> None:
        """``inside`` runs a command in a domain, as its guest agent does."""
        super().__init__(host)
        self.uri = uri
        self._agents = FakeAgents(inside)
        self._consoles = FakeConsoles()

    async def facts(self) -> HypervisorFacts:
        await self._host.call("facts")
        return HypervisorFacts(cpus=_CPUS, memory_mb=_MEMORY_MB, version="fake")

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
                reason=_reason(domain),
                made=domain.made if domain.started else domain.defined,
                uptime=now - domain.started if domain.started else None,
                boot=str(domain.started) if domain.started else "",
                cpu_seconds=(now - domain.started) / 10 if domain.started else None,
                memory_mb=64 if domain.started else None,
                used_mb=48 if domain.started else None,
            )
            for name, domain in self._world.domains.items()
            if domain.project == project
        }

    async def measure(self) -> HostMeasures:
        await self._host.call("measure_domains")
        now = time.time()
        found = tuple(_measured(name, domain, now) for name, domain in self._world.domains.items())
        return HostMeasures(size=HostSize(cpus=_CPUS, memory_mb=_MEMORY_MB), instances=found)

    async def observe(self, project: str) -> Mapping[str, ObservedDomain]:
        await self._host.call("observe", project)
        return {
            name: ObservedDomain(
                name=name,
                uuid=interface_id(name),
                guest=domain.guest,
                state=_state(domain),
                reason=_reason(domain),
                made=domain.made if domain.started else domain.defined,
                defined=domain.defined,
                edited=domain.edited,
                nics=tuple(
                    DomainNic(
                        mac=nic.mac,
                        target=nic.tap,
                        source=nic.bridge,
                        interface_id="" if nic.network else nic.interface_id or interface_id(nic.mac),
                        link=nic.link,
                        bandwidth=nic.bandwidth,
                    )
                    for nic in domain.hardware.nics
                ),
                disks=tuple(domain.hardware.disks),
                further=tuple(domain.hardware.further),
                memory_mb=domain.hardware.memory_mb,
                cpus=domain.hardware.cpus,
                agent=domain.agent and bool(domain.started),
            )
            for name, domain in self._world.domains.items()
            if domain.project == project
        }

    async def events(self, project: str) -> AsyncGenerator[DomainEvent]:
        """Look often: tests change the world by hand."""
        await self._host.call("events", project)
        known: dict[str, DomainEvent] = {}
        while True:
            there = {name: each for name, each in self._world.domains.items() if each.project == project}
            for name in sorted(known.keys() | there):
                found = None
                if name in there:
                    domain = there[name]
                    reason = _reason(domain)
                    found = DomainEvent(name=name, guest=domain.guest, state=_state(domain), reason=reason)
                event = following(known, name, found)
                if event is not None:
                    yield event
            await asyncio.sleep(0.1)

    async def start_domain(self, xml: str, made: str = "") -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        await self._host.call("start_domain", name)
        if name in self._world.domains and self._world.domains[name].started:
            return
        domain = self._define(name, tree, made)
        ports = self._world.plug(name, domain.hardware.nics)
        held = self._world.disks.setdefault(domain.disk, FakeDisk())
        if held.frozen:
            raise DriverError(f"{name}: its disk is frozen")
        domain.started, domain.paused, domain.made = time.time(), "", domain.defined
        self._host.renew(nic.mac for nic in domain.hardware.nics)
        held.written = True
        held.version += 1
        seed = "".join(_SEED.findall(made)[:1])
        if seed != held.seed:  # cloud-init unpacks it in the place of what was sent
            held.seed, held.sent, held.files = seed, "", {}
        self._host.keep(("domains", name), ("disks", domain.disk), *ports)

    async def define_domain(self, xml: str, made: str = "") -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        await self._host.call("define_domain", name)
        self._define(name, tree, made)
        self._host.keep(("domains", name))

    def _define(self, name: str, tree: ET.Element, made: str) -> FakeDomain:
        guest = tree.find(f"metadata/{_GUEST}")
        if guest is None:
            raise DriverError(f"{name}: the domain does not say that it is kvm-compose's")
        project = guest.attrib["project"]
        domain = self._world.domains.setdefault(name, FakeDomain(project, guest.attrib["name"]))
        if domain.project != project:
            raise DriverError(f"there already is a domain {name} of the project {domain.project}")
        source = tree.find("devices/disk/source")
        if domain.started:
            domain.next_hardware = hardware(tree)
        else:
            domain.hardware, domain.next_hardware = hardware(tree), None
            domain.disk = self._disk_path(project, source.attrib["file"] if source is not None else "")
        domain.defined, domain.edited = made, False
        return domain

    async def stamp_domain(self, name: str, made: str) -> None:
        await self._host.call("stamp_domain", name)
        domain = self._domain(name)
        domain.made = domain.defined = made
        self._host.keep(("domains", name))

    async def resume_domain(self, name: str) -> None:
        await self._host.call("resume_domain", name)
        self._running(name, "resume").paused = ""
        self._host.keep(("domains", name))

    async def suspend_domain(self, name: str) -> None:
        await self._host.call("suspend_domain", name)
        domain = self._running(name, "suspend")
        if domain.paused == "pmsuspended":
            raise DriverError(f"cannot suspend the domain {name}: it sleeps")
        domain.paused = domain.paused or "by user"
        self._host.keep(("domains", name))

    async def arp_answering(self, taps: Collection[str]) -> Sequence[str]:
        await self._host.call("arp_answering")
        return [
            each for domain in self._world.domains.values() for each in domain.answers_arp if each in taps
        ]

    async def leave_arp(self, taps: Sequence[str]) -> None:
        await self._host.call("leave_arp")
        for name, domain in self._world.domains.items():
            if not set(taps).isdisjoint(domain.answers_arp):
                domain.answers_arp = [each for each in domain.answers_arp if each not in taps]
                self._host.keep(("domains", name))

    async def set_memory(self, name: str, mib: int) -> None:
        await self._host.call("set_memory", name)
        domain = self._running(name, "change the memory of")
        if mib > domain.hardware.most_memory_mb:
            raise DriverError(f"cannot give {mib} MiB to the domain {name}")
        for hardware in _both(domain):
            hardware.memory_mb = min(mib, hardware.most_memory_mb)
        self._host.keep(("domains", name))

    async def set_vcpus(self, name: str, count: int) -> None:
        await self._host.call("set_vcpus", name)
        domain = self._running(name, "change the processors of")
        if count > domain.hardware.most_cpus:
            raise DriverError(f"cannot give {count} CPUs to the domain {name}")
        if domain.clings and count < domain.hardware.cpus:
            raise DriverError(f"cannot take CPUs from the domain {name}: its guest does not let go")
        for hardware in _both(domain):
            hardware.cpus = min(count, hardware.most_cpus)
        self._host.keep(("domains", name))

    async def attach_nic(self, name: str, xml: str) -> None:
        await self._host.call("attach_nic", name)
        domain = self._running(name, "attach a NIC to")
        nic = _nic(ET.fromstring(xml))  # noqa: S314 (see above)
        ports: list[Place] = []
        if all(each.mac != nic.mac for each in domain.hardware.nics):
            if any(each.tap == nic.tap for each in domain.hardware.nics):
                raise DriverError(
                    f"cannot attach a NIC to the domain {name}: The {nic.tap} interface already exists"
                )
            ports = self._world.plug(name, [nic])
        for hardware in _both(domain):
            if all(each.mac != nic.mac for each in hardware.nics):
                hardware.nics.append(nic)
        self._host.keep(("domains", name), *ports)

    async def set_nic(self, name: str, xml: str) -> None:
        await self._host.call("set_nic", name)
        domain = self._running(name, "change a NIC of")
        wanted = _nic(ET.fromstring(xml))  # noqa: S314 (see above)
        if all(each.mac != wanted.mac for each in domain.hardware.nics):
            raise DriverError(f"the domain {name} has no NIC {wanted.mac}")
        domain.hardware.nics = [
            msgspec.structs.replace(each, link=wanted.link, bandwidth=wanted.bandwidth, vlan=wanted.vlan)
            if each.mac == wanted.mac
            else each
            for each in domain.hardware.nics
        ]
        places = self._world.limit(wanted)
        self._host.keep(("domains", name), *places)

    async def detach_nic(self, name: str, mac: str, seconds: float) -> bool:
        await self._host.call("detach_nic", name)
        domain = self._domain(name)
        gone = [nic for nic in domain.hardware.nics if nic.mac == mac.lower()]
        if gone and domain.clings:
            await asyncio.sleep(min(seconds, 0.1))
            return False
        ports = self._world.unplug(name, [nic.tap for nic in gone])
        for hardware in _both(domain):
            hardware.nics = [nic for nic in hardware.nics if nic.mac != mac.lower()]
        self._host.keep(("domains", name), *ports)
        return True

    async def attach_disk(self, name: str, disk: str, xml: str) -> None:
        await self._host.call("attach_disk", f"{name}:{disk}")
        domain = self._running(name, "attach a disk to")
        target = ET.fromstring(xml).find("target")  # noqa: S314 (see above)
        for hardware in _both(domain):
            if disk not in hardware.further:
                hardware.further.append(disk)
                hardware.disks.append(target.get("dev", "") if target is not None else "")
        self._host.keep(("domains", name))

    async def detach_disk(self, name: str, disk: str, seconds: float) -> bool:
        await self._host.call("detach_disk", f"{name}:{disk}")
        domain = self._domain(name)
        if disk in domain.hardware.further and domain.clings:
            await asyncio.sleep(min(seconds, 0.1))
            return False
        for hardware in _both(domain):
            hardware.further = [each for each in hardware.further if each != disk]
        self._host.keep(("domains", name))
        return True

    async def change_medium(self, name: str, disk: str, xml: str) -> None:  # noqa: ARG002
        await self._host.call("change_medium", f"{name}:{disk}")
        self._running(name, "change a medium of")

    async def grow_disk(self, name: str, path: str, size: int) -> None:
        await self._host.call("grow_disk", f"{name}:{path.rpartition('/')[2]}")
        domain = self._running(name, "enlarge a disk of")
        place = self._disk_path(domain.project, path)
        self._world.disks.setdefault(place, FakeDisk()).size = size
        self._host.keep(("disks", place))

    async def open_console(self, name: str, *, force: bool) -> socket.socket:
        await self._host.call("open_console", name)
        domain = self._world.domains.get(name)
        if domain is None or not domain.started:
            raise RefusedError(f"{name} is off" if domain is not None else f"there is no domain {name}")
        return self._consoles.open(name, force=force)

    async def ask_agent(
        self,
        name: str,
        command: AgentCommand,
        seconds: int = ANSWER_SECONDS,  # noqa: ARG002 (fakes answer at once)
    ) -> Any:
        await self._host.call("ask_agent", f"{name}:{command.execute}")
        domain = self._running(name, "ask the guest agent of")
        return await self._agents.answer(name, domain, command)

    async def wait_agent(self, name: str, seconds: float) -> None:  # noqa: ARG002 (fakes are ready at once)
        await self._host.call("wait_agent", name)
        self._running(name, "wait for the guest agent of").agent = True
        self._host.keep(("domains", name))

    async def screen(self, name: str) -> Screen | None:
        await self._host.call("screen", name)
        domain = self._world.domains.get(name)
        if domain is None or not domain.hardware.screen:
            return None
        return Screen(kind=domain.hardware.screen, port=5900 if domain.started else 0)

    async def open_screen(self, screen: Screen) -> socket.socket:
        await self._host.call("open_screen", screen.kind)
        return self._consoles.open_screen()

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
        if self._world.domains.get(name, FakeDomain("", "")).paused:  # or sleeps: it does not see the button
            return False
        self._stop(name, "shutdown")
        return seconds > 0

    async def wait_off(self, name: str) -> None:
        await self._host.call("wait_off", name)
        seconds = 0.05
        while self._world.domains.get(name, FakeDomain("", "")).started:
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, 1.0)  # hundreds of guests are waited for, often for long

    async def destroy_domain(self, name: str) -> None:
        await self._host.call("destroy_domain", name)
        self._stop(name, "destroyed")

    def _stop(self, name: str, why: str) -> None:
        domain = self._world.domains.get(name)
        if domain is not None and domain.started:
            domain.started, domain.paused, domain.off = 0, "", why
            self._consoles.close(name)
            domain.hardware, domain.next_hardware = domain.next_hardware or domain.hardware, None
            self._host.renew(nic.mac for nic in domain.hardware.nics)
            ports = self._world.unplug(name)
            self._host.keep(("domains", name), *ports)

    async def undefine_domain(self, name: str) -> None:
        await self._host.call("undefine_domain", name)
        if name in self._world.domains and self._world.domains[name].started:
            raise DriverError(f"{name} runs")
        self._world.domains.pop(name, None)
        self._host.keep(("domains", name))

    async def capabilities(self, need: DomainNeed) -> Capabilities:
        await self._host.call("capabilities", need.arch)
        return Capabilities(
            uefi=True,
            secure_boot=need.arch == "x86_64",
            tpm=True,
            virtiofs=True,
            free_pages=_FREE_PAGES,
        )

    async def forget_tpm(self, holder: TpmHolder) -> None:
        await self._host.call("forget_tpm", holder.name)

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
        xml = f"<domainsnapshot><name>{escape(name)}</name><state>running</state></domainsnapshot>"
        self._domain(domain).snapshots[name] = xml
        self._host.keep(("domains", domain))

    async def restore_snapshot(self, domain: str, name: str) -> None:
        await self._host.call("restore_snapshot", domain)
        if name not in self._domain(domain).snapshots:
            raise DriverError(f"{domain} has no snapshot {name}")
        restored = self._domain(domain)
        ports = [] if restored.started else self._world.plug(domain, restored.hardware.nics)
        restored.started, restored.paused = time.time(), ""
        self._host.keep(("domains", domain), *ports)

    async def delete_snapshot(self, domain: str, name: str) -> None:
        await self._host.call("delete_snapshot", domain)
        if self._domain(domain).snapshots.pop(name, None) is None:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._host.keep(("domains", domain))

    async def know_snapshot(self, domain: str, xml: str) -> None:
        await self._host.call("know_snapshot", domain)
        name = ET.fromstring(xml).findtext("name") or ""  # noqa: S314 (see above)
        self._domain(domain).snapshots[name] = xml
        self._host.keep(("domains", domain))

    def _domain(self, name: str) -> FakeDomain:
        if name not in self._world.domains:
            raise DriverError(f"there is no domain {name}")
        return self._world.domains[name]

    async def close(self) -> None:
        """Close what is open of consoles."""
        await self._consoles.end()
