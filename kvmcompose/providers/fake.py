"""Simulated hosts, for trials and fault injection: every call works, and nothing real is changed.

Each call has a name, ``start_domain:web``: what is done to which kind of thing, and its object. It is unique
among all drivers, and users know it from ``--fail``: it stays when a method moves or gets another name.
Calls that match a shell pattern (``start_domain:*``) can be made to fail, always or a number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kvmcompose.core.chassis import Remotes
from kvmcompose.core.model import Host
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.hosts.fake import MAIN, SimulatedHost, Worlds
from kvmcompose.hosts.fake_blobs import FakeBlobStore
from kvmcompose.hosts.fake_volumes import FakeVolumeStore
from kvmcompose.providers.capture.fake import FakeCaptures
from kvmcompose.providers.console_logs.fake import FakeConsoleLogs
from kvmcompose.providers.containers.fake import FakeEngine
from kvmcompose.providers.disks.fake import FakeDisks
from kvmcompose.providers.drivers import HostDrivers, OvnDrivers
from kvmcompose.providers.guest.fake import FakeShell
from kvmcompose.providers.iplink.fake import FakeLinks
from kvmcompose.providers.libvirt.fake import FakeHypervisor
from kvmcompose.providers.netns.fake import FakeNamespaces
from kvmcompose.providers.netns.fake_nics import FakeNics
from kvmcompose.providers.ovn.fake import FakeNorthbound, FakeSouthbound
from kvmcompose.providers.ovs.fake import FakeSwitches
from kvmcompose.providers.ovs.fake_chassis import FakeHostChassis, FakeHostPorts, FakeOutsides
from kvmcompose.providers.project_folder.fake import FakeProjectFolders


class FakeDrivers(Worlds):
    """The drivers of simulated hosts. ``path`` is where their state is saved, None: nowhere."""

    name = "fake"

    def __init__(self, path: Path | None = None, failures: Sequence[str] = (), delay: float = 0) -> None:
        super().__init__(path, failures, delay)
        self._hosts: dict[tuple[Host, bool], HostDrivers] = {}

    def host(self, host: Host, member: OwnerFiles | None = None) -> HostDrivers:
        key = host, member is not None
        if key not in self._hosts:
            self._hosts[key] = self._drivers(*key)
        return self._hosts[key]

    def _drivers(self, host: Host, is_member: bool) -> HostDrivers:
        fake = SimulatedHost(self, MAIN if host.is_main_host else host.name)
        return HostDrivers(
            name=host.name,
            hypervisor=FakeHypervisor(fake, self.shell().inside),
            switches=FakeSwitches(fake),
            links=FakeLinks(fake),
            project_folders=FakeProjectFolders(fake),
            disks=FakeDisks(fake),
            console_logs=FakeConsoleLogs(fake),
            captures=FakeCaptures(fake),
            chassis=FakeHostChassis(fake, host.name),
            outsides=FakeOutsides(fake, host.name),
            host_ports=FakeHostPorts(fake),
            management=FakeNamespaces(fake),
            engine=FakeEngine(fake),
            nics=FakeNics(fake),
            blobs=None if host.is_main_host and not is_member else FakeBlobStore(fake),
            volumes=None if host.is_main_host else FakeVolumeStore(fake),
        )

    def ovn(self, main: Host, databases: Remotes) -> OvnDrivers:  # noqa: ARG002 (there is one)
        fake = SimulatedHost(self, MAIN)
        return OvnDrivers(FakeNorthbound(fake), FakeSouthbound(fake))

    def shell(self) -> FakeShell:
        return FakeShell(self)

    async def close(self) -> None:
        self.release()
