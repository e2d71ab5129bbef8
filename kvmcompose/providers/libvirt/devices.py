"""Memory, processors, NICs and disks of running domains."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

from kvmcompose.hosts import arp
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.providers.libvirt import alive, alive_disks
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.connection import LOOK_AGAIN, Connection


class LibvirtDevices:
    """What changes in running domains of one host. ``runner`` runs what libvirt has no call for."""

    def __init__(self, connection: Connection, runner: CommandRunner) -> None:
        self._connection = connection
        self._runner = runner

    async def set_memory(self, name: str, mib: int) -> None:
        await self._connection.on_domain(
            f"change the memory of the domain {name}", name, alive.set_memory, mib=mib
        )

    async def set_vcpus(self, name: str, count: int) -> None:
        doing = f"change the processors of the domain {name}"
        await self._connection.on_domain(doing, name, alive.set_vcpus, count=count)

    async def attach_nic(self, name: str, xml: str) -> None:
        await self._connection.on_domain(
            f"attach a NIC to the domain {name}", name, alive.attach_nic, xml=xml
        )
        await arp.leave_arp_to_bridges(self._runner, xmls.switch_taps(xml))

    async def set_nic(self, name: str, xml: str) -> None:
        await self._connection.on_domain(f"change a NIC of the domain {name}", name, alive.set_nic, xml=xml)

    async def detach_nic(self, name: str, mac: str, seconds: float) -> bool:
        doing = f"detach the NIC {mac} of the domain {name}"
        return await self._detached(doing, name, functools.partial(alive.ask_to_detach_nic, mac=mac), seconds)

    async def attach_disk(self, name: str, disk: str, xml: str) -> None:
        doing = f"attach the disk {disk} to the domain {name}"
        await self._connection.on_domain(doing, name, alive_disks.attach_disk, disk=disk, xml=xml)

    async def detach_disk(self, name: str, disk: str, seconds: float) -> bool:
        doing = f"detach the disk {disk} of the domain {name}"
        ask = functools.partial(alive_disks.ask_to_detach_disk, disk=disk)
        return await self._detached(doing, name, ask, seconds)

    async def change_medium(self, name: str, disk: str, xml: str) -> None:
        doing = f"change the medium of the CD-ROM {disk} of the domain {name}"
        await self._connection.on_domain(doing, name, alive_disks.change_medium, disk=disk, xml=xml)

    async def grow_disk(self, name: str, path: str, size: int) -> None:
        doing = f"enlarge the disk {path} of the domain {name}"
        await self._connection.on_domain(doing, name, alive_disks.grow_disk, path=path, size=size)

    async def _detached(self, doing: str, name: str, ask: Callable[[Any], bool], seconds: float) -> bool:
        """Ask until the guest has let go of a device; return whether it has within ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._connection.watch(name) as changed:
            while True:
                changed.clear()
                if await self._connection.on_domain(doing, name, ask):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), min(left, LOOK_AGAIN))
