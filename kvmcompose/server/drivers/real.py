"""The real drivers of a deployment's hosts."""

from __future__ import annotations

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.model import Host
from kvmcompose.server.drivers import HostDrivers, Shell
from kvmcompose.server.drivers.disks import HostDisks
from kvmcompose.server.drivers.libvirt import Libvirt
from kvmcompose.server.drivers.links import IpLinks
from kvmcompose.server.drivers.machine import ThisMachine
from kvmcompose.server.drivers.ovs import OvsSwitches
from kvmcompose.server.drivers.ssh import SshShell


class RealDrivers:
    """libvirt, Open vSwitch, ip-link, qemu-img and SSH. Nothing is contacted before it is needed."""

    name = "real"

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, str], HostDrivers] = {}
        self._hypervisors: list[Libvirt] = []
        self._shell = SshShell()

    def host(self, host: Host) -> HostDrivers:
        """The drivers of this machine, under the name that it has in the testbed."""
        if not host.is_main_host:
            raise RefusedError(
                f"{host.name} is another host: this version brings testbeds up on one host only",
                hint="give kvm-compose-config.json one host, the main host",
            )
        key = (host.name, host.libvirt_uri)
        if key not in self._hosts:
            machine = ThisMachine(host.name)
            hypervisor = Libvirt(host.libvirt_uri, machine)
            self._hypervisors.append(hypervisor)
            self._hosts[key] = HostDrivers(
                name=host.name,
                hypervisor=hypervisor,
                switches=OvsSwitches(machine),
                links=IpLinks(machine),
                disks=HostDisks(machine),
            )
        return self._hosts[key]

    def shell(self) -> Shell:
        """The way into guests."""
        return self._shell

    async def close(self) -> None:
        """Let go of all connections."""
        self._hosts.clear()
        hypervisors, self._hypervisors = self._hypervisors, []
        for hypervisor in hypervisors:
            await hypervisor.close()
        await self._shell.close()
