"""Memory, processors, NICs and disks of simulated domains."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET

import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDisk, FakeDomain, FakeHardware, Place
from kvmcompose.providers.libvirt.fake_hardware import nic_of


class FakeDevices:
    """See ``DomainDevices``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def set_memory(self, name: str, mib: int) -> None:
        await self._host.call("set_memory", name)
        domain = self._host.world.running(name, "change the memory of")
        if mib > domain.hardware.most_memory_mb:
            raise DriverError(f"cannot give {mib} MiB to the domain {name}")
        for hardware in _both(domain):
            hardware.memory_mb = min(mib, hardware.most_memory_mb)
        self._host.keep(("domains", name))

    async def set_vcpus(self, name: str, count: int) -> None:
        await self._host.call("set_vcpus", name)
        domain = self._host.world.running(name, "change the processors of")
        if count > domain.hardware.most_cpus:
            raise DriverError(f"cannot give {count} CPUs to the domain {name}")
        if domain.clings and count < domain.hardware.cpus:
            raise DriverError(f"cannot take CPUs from the domain {name}: its guest does not let go")
        for hardware in _both(domain):
            hardware.cpus = min(count, hardware.most_cpus)
        self._host.keep(("domains", name))

    async def attach_nic(self, name: str, xml: str) -> None:
        await self._host.call("attach_nic", name)
        domain = self._host.world.running(name, "attach a NIC to")
        nic = nic_of(ET.fromstring(xml))  # noqa: S314 (written by our builds and tests)
        ports: list[Place] = []
        if all(each.mac != nic.mac for each in domain.hardware.nics):
            if any(each.tap == nic.tap for each in domain.hardware.nics):
                raise DriverError(
                    f"cannot attach a NIC to the domain {name}: The {nic.tap} interface already exists"
                )
            ports = self._host.world.plug(name, [nic])
        for hardware in _both(domain):
            if all(each.mac != nic.mac for each in hardware.nics):
                hardware.nics.append(nic)
        self._host.keep(("domains", name), *ports)

    async def set_nic(self, name: str, xml: str) -> None:
        await self._host.call("set_nic", name)
        domain = self._host.world.running(name, "change a NIC of")
        wanted = nic_of(ET.fromstring(xml))  # noqa: S314 (written by our builds and tests)
        if all(each.mac != wanted.mac for each in domain.hardware.nics):
            raise DriverError(f"the domain {name} has no NIC {wanted.mac}")
        domain.hardware.nics = [
            msgspec.structs.replace(each, link=wanted.link, bandwidth=wanted.bandwidth, vlan=wanted.vlan)
            if each.mac == wanted.mac
            else each
            for each in domain.hardware.nics
        ]
        places = self._host.world.limit(wanted)
        self._host.keep(("domains", name), *places)

    async def detach_nic(self, name: str, mac: str, seconds: float) -> bool:
        await self._host.call("detach_nic", name)
        domain = self._host.world.domain(name)
        gone = [nic for nic in domain.hardware.nics if nic.mac == mac.lower()]
        if gone and domain.clings:
            await asyncio.sleep(min(seconds, 0.1))
            return False
        ports = self._host.world.unplug(name, [nic.tap for nic in gone])
        for hardware in _both(domain):
            hardware.nics = [nic for nic in hardware.nics if nic.mac != mac.lower()]
        self._host.keep(("domains", name), *ports)
        return True

    async def attach_disk(self, name: str, disk: str, xml: str) -> None:
        await self._host.call("attach_disk", f"{name}:{disk}")
        domain = self._host.world.running(name, "attach a disk to")
        target = ET.fromstring(xml).find("target")  # noqa: S314 (written by our builds and tests)
        for hardware in _both(domain):
            if disk not in hardware.further:
                hardware.further.append(disk)
                hardware.disks.append(target.get("dev", "") if target is not None else "")
        self._host.keep(("domains", name))

    async def detach_disk(self, name: str, disk: str, seconds: float) -> bool:
        await self._host.call("detach_disk", f"{name}:{disk}")
        domain = self._host.world.domain(name)
        if disk in domain.hardware.further and domain.clings:
            await asyncio.sleep(min(seconds, 0.1))
            return False
        for hardware in _both(domain):
            hardware.further = [each for each in hardware.further if each != disk]
        self._host.keep(("domains", name))
        return True

    async def change_medium(self, name: str, disk: str, xml: str) -> None:  # noqa: ARG002
        await self._host.call("change_medium", f"{name}:{disk}")
        self._host.world.running(name, "change a medium of")

    async def grow_disk(self, name: str, path: str, size: int) -> None:
        await self._host.call("grow_disk", f"{name}:{path.rpartition('/')[2]}")
        domain = self._host.world.running(name, "enlarge a disk of")
        place = self._host.world.disk_path(domain.project, path)
        self._host.world.disks.setdefault(place, FakeDisk()).size = size
        self._host.keep(("disks", place))


def _both(domain: FakeDomain) -> list[FakeHardware]:
    """Return what a domain has, and what its definition gives it at the next start."""
    return [domain.hardware] if domain.next_hardware is None else [domain.hardware, domain.next_hardware]
