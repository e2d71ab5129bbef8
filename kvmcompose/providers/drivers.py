"""What the server drives, as interfaces: each has one module for the real thing, ``fake`` has them all.

Everything here is called from one event loop and must not block it. What fails raises DriverError, whose
message names what was tried. Every call is idempotent: to start what runs or remove what is gone is no
error. Names are those on the host, from ``state.json``.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from kvmcompose.core.model import Host
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.hosts.blob_store import BlobStore
from kvmcompose.providers.capture.interface import Captures
from kvmcompose.providers.disks.interface import Disks
from kvmcompose.providers.guest.interface import GuestShell
from kvmcompose.providers.iplink.interface import Links
from kvmcompose.providers.libvirt.interface import Hypervisor
from kvmcompose.providers.ovs.interface import Switches


class HostDrivers(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be driven on one host.

    The main host has no ``blobs``, as all files are its own, unless they are a member's (``Drivers.host``).
    """

    name: str
    hypervisor: Hypervisor
    switches: Switches
    links: Links
    disks: Disks
    captures: Captures
    blobs: BlobStore | None = None


class Drivers(Protocol):
    """Makes the drivers of a deployment's hosts."""

    #: What ``Health.drivers`` says: ``real`` or ``fake``.
    name: str

    def host(self, host: Host, member: OwnerFiles | None = None) -> HostDrivers:
        """The drivers of one host; the same ones each time.

        With ``member``, root works for a user who is no administrator: the main host is sent what it needs as
        any other, and other hosts are reached with nothing but that user's keys.
        """

    def shell(self) -> GuestShell:
        """The way into guests."""

    async def close(self) -> None:
        """Let go of everything."""
