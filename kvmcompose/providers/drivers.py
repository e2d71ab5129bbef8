"""The drivers of a host, and where they come from: ``real`` or ``fake``."""

from __future__ import annotations

from typing import Protocol

import msgspec

from kvmcompose.core.chassis import Remotes
from kvmcompose.core.model import Host
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.hosts.blob_store import BlobStore
from kvmcompose.hosts.volume_store import VolumeStore
from kvmcompose.providers.capture.interface import Captures
from kvmcompose.providers.console_logs.interface import ConsoleLogs
from kvmcompose.providers.containers.interface import ContainerEngine
from kvmcompose.providers.disks.interface import Disks
from kvmcompose.providers.guest.interface import GuestShell
from kvmcompose.providers.iplink.interface import Links
from kvmcompose.providers.libvirt.interface import Hypervisor
from kvmcompose.providers.netns.container_nics import ContainerNics
from kvmcompose.providers.netns.interface import ManagementPorts
from kvmcompose.providers.ovn.interface import Northbound, Southbound
from kvmcompose.providers.ovs.chassis import HostChassis
from kvmcompose.providers.ovs.host_ports import HostPorts
from kvmcompose.providers.ovs.interface import Switches
from kvmcompose.providers.ovs.outside import Outsides
from kvmcompose.providers.project_folder.interface import ProjectFolders


class OvnDrivers(msgspec.Struct, frozen=True):
    """The databases of an OVN."""

    northbound: Northbound
    southbound: Southbound


class HostDrivers(msgspec.Struct, frozen=True, kw_only=True):
    """The drivers of one host.

    The main host has no ``blobs``, because the project folder is there, except for a member
    (``Drivers.host``). It never has ``volumes``.
    """

    name: str
    hypervisor: Hypervisor
    switches: Switches
    links: Links
    project_folders: ProjectFolders
    disks: Disks
    console_logs: ConsoleLogs
    captures: Captures
    chassis: HostChassis
    outsides: Outsides
    host_ports: HostPorts
    management: ManagementPorts
    engine: ContainerEngine
    nics: ContainerNics
    blobs: BlobStore | None = None
    volumes: VolumeStore | None = None


class Drivers(Protocol):
    """Provides the drivers of a deployment's hosts."""

    #: Shown in ``Health.drivers``: ``real`` or ``fake``.
    name: str

    def host(self, host: Host, member: OwnerFiles | None = None) -> HostDrivers:
        """Return the drivers of one host; the same ones each time.

        With ``member``, root works for a user who is no administrator: the main host is sent files like any
        other host, and other hosts are reached only with that user's keys.
        """

    def ovn(self, main: Host, databases: Remotes) -> OvnDrivers:
        """Return the databases of an OVN; the same ones each time."""

    def shell(self) -> GuestShell:
        """Return the shell into guests."""

    async def close(self) -> None:
        """Close all connections."""
