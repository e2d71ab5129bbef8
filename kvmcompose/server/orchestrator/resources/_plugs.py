"""NICs of containers on one host, and their ports in Open vSwitch, changed a few containers at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.netns.container_nics import ContainerNic, ContainerPlace
from kvmcompose.providers.ovs.interface import GuestPort, SwitchChange


class PlugChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changes for one container: NICs that are created or set, ports, and ends that go.

    A port of a NIC that is created is opened again by the switch: it keeps the pair of before open.
    """

    nics: tuple[tuple[ContainerPlace, ContainerNic], ...] = ()
    ports: tuple[GuestPort, ...] = ()
    removed: tuple[str, ...] = ()


class Plugs:
    """Changes NICs on one host. What is asked for while a change runs, is done together in the next one."""

    def __init__(self, project: str, host: HostDrivers) -> None:
        self._project = project
        self._host = host
        self._waiting: list[tuple[PlugChange, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def change(self, change: PlugChange) -> None:
        """Carry out a change. Raises DriverError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._together(batch)
        finally:
            self._running = None

    async def _together(self, batch: Sequence[tuple[PlugChange, asyncio.Future[None]]]) -> None:
        try:
            await self._apply([change for change, _ in batch])
        except KvmComposeError as error:
            if len(batch) > 1:  # one of them is to blame
                for each in batch:
                    await self._together([each])
                return
            _end(batch[0][1], error)
        except BaseException as error:
            for _, done in batch:
                _end(done, error)
            raise
        for _, done in batch:
            _end(done)

    async def _apply(self, changes: Sequence[PlugChange]) -> None:
        await self._host.nics.remove([end for each in changes for end in each.removed])
        await self._host.nics.apply([nic for each in changes for nic in each.nics])
        again = (nic.end for each in changes for _, nic in each.nics)
        await self._host.switches.change(
            SwitchChange(
                project=self._project,
                datapath_type="system",  # of bridges, of which it has none
                guests=tuple(port for each in changes for port in each.ports),
                removed_ports=(*again, *(end for each in changes for end in each.removed)),
            )
        )


def _end(done: asyncio.Future[None], error: BaseException | None = None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
