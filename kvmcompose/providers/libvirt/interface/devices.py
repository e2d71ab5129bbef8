"""Memory, processors, NICs and disks of running domains."""

from __future__ import annotations

from typing import Protocol


class DomainDevices(Protocol):
    """What changes in a domain while it runs. ``name`` is the domain's."""

    async def set_memory(self, name: str, mib: int) -> None:
        """Change the memory of a running domain, up to its maximum. Raises DriverError beyond it."""

    async def set_vcpus(self, name: str, count: int) -> None:
        """Change the processors of a running domain, up to its maximum. Raises DriverError beyond it.

        Only those that were added while it runs can be taken away, and only if the guest lets go.
        """

    async def attach_nic(self, name: str, xml: str) -> None:
        """Plug a NIC (an <interface>) into a running domain. Raises DriverError without a free PCIe port."""

    async def set_nic(self, name: str, xml: str) -> None:
        """Give a NIC of a running domain the link state, VLAN and limits of throughput of an <interface>."""

    async def detach_nic(self, name: str, mac: str, seconds: float) -> bool:
        """Unplug the NIC with this MAC address; return whether the guest let go of it within ``seconds``."""

    async def attach_disk(self, name: str, disk: str, xml: str) -> None:
        """Plug the further disk of the name ``disk`` (a <disk>) into a running domain.

        Raises DriverError without a free PCIe port. Its target is another one where the domain has that.
        """

    async def detach_disk(self, name: str, disk: str, seconds: float) -> bool:
        """Unplug a further disk; return whether the guest let go of it within ``seconds``."""

    async def change_medium(self, name: str, disk: str, xml: str) -> None:
        """Open the tray of a CD-ROM of a running domain, and close it with the medium of ``xml`` (a <disk>).

        Raises DriverError while the guest has locked the tray.
        """

    async def grow_disk(self, name: str, path: str, size: int) -> None:
        """Enlarge the disk with the file ``path`` to ``size`` bytes while its domain runs."""
