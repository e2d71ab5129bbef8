"""The domains of a simulated libvirt."""

from __future__ import annotations

import asyncio
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncGenerator, Mapping

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDisk, FakeDomain, interface_id
from kvmcompose.providers.libvirt.fake_consoles import FakeTerminals
from kvmcompose.providers.libvirt.fake_hardware import hardware
from kvmcompose.providers.libvirt.interface.domains import (
    DomainEvent,
    DomainNic,
    DomainState,
    ObservedDomain,
    TpmHolder,
    following,
)

#: The digest of the seed, in what a domain was made from.
_SEED = re.compile(r'"seed":"(\w+)"')
_GUEST = "{urn:kvmcompose:guest:1}guest"


def state_of(domain: FakeDomain) -> str:
    """Return the state of a domain in libvirt's words."""
    if not domain.started:
        return "shut off"
    if domain.paused == "pmsuspended":
        return "pmsuspended"
    return "paused" if domain.paused else "running"


def _reason(domain: FakeDomain) -> str | None:
    why = domain.paused if domain.started else domain.off
    return None if why == "pmsuspended" else why or None


class FakeDomains:
    """See ``Domains``."""

    def __init__(self, host: SimulatedHost, terminals: FakeTerminals) -> None:
        """``terminals`` are those that users of consoles have; one is closed when its domain goes off."""
        self._host = host
        self._terminals = terminals

    async def states(self, project: str) -> Mapping[str, DomainState]:
        await self._host.call("domains", project)
        now = time.time()
        return {
            name: DomainState(
                name=name,
                guest=domain.guest,
                state=state_of(domain),
                reason=_reason(domain),
                made=domain.made if domain.started else domain.defined,
                uptime=now - domain.started if domain.started else None,
                boot=str(domain.started) if domain.started else "",
                cpu_seconds=(now - domain.started) / 10 if domain.started else None,
                memory_mb=64 if domain.started else None,
                used_mb=48 if domain.started else None,
            )
            for name, domain in self._host.world.domains.items()
            if domain.project == project
        }

    async def observe(self, project: str) -> Mapping[str, ObservedDomain]:
        await self._host.call("observe", project)
        return {
            name: ObservedDomain(
                name=name,
                uuid=interface_id(name),
                guest=domain.guest,
                state=state_of(domain),
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
            for name, domain in self._host.world.domains.items()
            if domain.project == project
        }

    async def events(self, project: str) -> AsyncGenerator[DomainEvent]:
        """Look often: tests change the world by hand."""
        await self._host.call("events", project)
        known: dict[str, DomainEvent] = {}
        while True:
            there = {name: each for name, each in self._host.world.domains.items() if each.project == project}
            for name in sorted(known.keys() | there):
                found = None
                if name in there:
                    domain = there[name]
                    reason = _reason(domain)
                    found = DomainEvent(name=name, guest=domain.guest, state=state_of(domain), reason=reason)
                event = following(known, name, found)
                if event is not None:
                    yield event
            await asyncio.sleep(0.1)

    async def start(self, xml: str, made: str = "") -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (written by our builds and tests)
        name = tree.findtext("name") or ""
        await self._host.call("start_domain", name)
        if name in self._host.world.domains and self._host.world.domains[name].started:
            return
        domain = self._define(name, tree, made)
        ports = self._host.world.plug(name, domain.hardware.nics)
        held = self._host.world.disks.setdefault(domain.disk, FakeDisk())
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

    async def define(self, xml: str, made: str = "") -> None:
        tree = ET.fromstring(xml)  # noqa: S314 (written by our builds and tests)
        name = tree.findtext("name") or ""
        await self._host.call("define_domain", name)
        self._define(name, tree, made)
        self._host.keep(("domains", name))

    def _define(self, name: str, tree: ET.Element, made: str) -> FakeDomain:
        guest = tree.find(f"metadata/{_GUEST}")
        if guest is None:
            raise DriverError(f"{name}: the domain does not say that it is kvm-compose's")
        project = guest.attrib["project"]
        domain = self._host.world.domains.setdefault(name, FakeDomain(project, guest.attrib["name"]))
        if domain.project != project:
            raise DriverError(f"there already is a domain {name} of the project {domain.project}")
        source = tree.find("devices/disk/source")
        if domain.started:
            domain.next_hardware = hardware(tree)
        else:
            domain.hardware, domain.next_hardware = hardware(tree), None
            domain.disk = self._host.world.disk_path(
                project, source.attrib["file"] if source is not None else ""
            )
        domain.defined, domain.edited = made, False
        return domain

    async def stamp(self, name: str, made: str) -> None:
        await self._host.call("stamp_domain", name)
        domain = self._host.world.domain(name)
        domain.made = domain.defined = made
        self._host.keep(("domains", name))

    async def resume(self, name: str) -> None:
        await self._host.call("resume_domain", name)
        self._host.world.running(name, "resume").paused = ""
        self._host.keep(("domains", name))

    async def suspend(self, name: str) -> None:
        await self._host.call("suspend_domain", name)
        domain = self._host.world.running(name, "suspend")
        if domain.paused == "pmsuspended":
            raise DriverError(f"cannot suspend the domain {name}: it sleeps")
        domain.paused = domain.paused or "by user"
        self._host.keep(("domains", name))

    async def shut_down(self, name: str, seconds: float) -> bool:
        await self._host.call("shut_down_domain", name)
        if self._host.world.domains.get(
            name, FakeDomain("", "")
        ).paused:  # or sleeps: it does not see the button
            return False
        self._stop(name, "shutdown")
        return seconds > 0

    async def wait_off(self, name: str) -> None:
        await self._host.call("wait_off", name)
        seconds = 0.05
        while self._host.world.domains.get(name, FakeDomain("", "")).started:
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, 1.0)  # hundreds of guests are waited for, often for long

    async def destroy(self, name: str) -> None:
        await self._host.call("destroy_domain", name)
        self._stop(name, "destroyed")

    def _stop(self, name: str, why: str) -> None:
        domain = self._host.world.domains.get(name)
        if domain is not None and domain.started:
            domain.started, domain.paused, domain.off = 0, "", why
            self._terminals.close(name)
            domain.hardware, domain.next_hardware = domain.next_hardware or domain.hardware, None
            self._host.renew(nic.mac for nic in domain.hardware.nics)
            ports = self._host.world.unplug(name)
            self._host.keep(("domains", name), *ports)

    async def undefine(self, name: str) -> None:
        await self._host.call("undefine_domain", name)
        if name in self._host.world.domains and self._host.world.domains[name].started:
            raise DriverError(f"{name} runs")
        self._host.world.domains.pop(name, None)
        self._host.keep(("domains", name))

    async def forget_tpm(self, holder: TpmHolder) -> None:
        await self._host.call("forget_tpm", holder.name)
