"""Management ports of a simulated host."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence

from kvmcompose.core.deployable import ManagementPort
from kvmcompose.core.names import management_prefix
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeLink, FakeNamespace, Place
from kvmcompose.providers.netns.interface import FoundNamespace

#: What an SSH server says first (RFC 4253, section 4.2).
_BANNER = b"SSH-2.0-fake\r\n"
#: Tasks are kept while they run: asyncio does not.
_ECHOING: set[asyncio.Task[None]] = set()


class FakeNamespaces:
    """See ``ManagementPorts``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def check(self) -> None:
        await self._host.call("check_management")

    async def observe(self, project: str) -> Mapping[str, FoundNamespace]:
        await self._host.call("observe_management")
        prefix = management_prefix(project)
        return {
            name: FoundNamespace(
                name=name,
                addresses=(each.address,) if each.address else (),
                mac=each.mac if each.port in self._host.world.links else None,
                mtu=each.mtu if each.port in self._host.world.links else None,
                up=each.port in self._host.world.links,
                firewall=each.firewall,
            )
            for name, each in self._host.world.namespaces.items()
            if name.startswith(prefix)
        }

    async def apply(self, ports: Sequence[ManagementPort]) -> None:
        await self._host.call("apply_management")
        changed: list[Place] = []
        known = set(self._host.world.namespaces)
        for port in ports:
            self._host.world.namespaces[port.namespace] = FakeNamespace(
                port=port.name, address=port.address, mac=port.mac, mtu=port.mtu
            )
            if port.name not in self._host.world.links or port.namespace not in known:
                self._host.world.links[port.name] = FakeLink(f"{port.namespace}/eth0", mtu=port.mtu)
            changed += [("namespaces", port.namespace), ("links", port.name)]
        self._host.keep(*changed)

    async def remove(self, names: Sequence[str]) -> None:
        await self._host.call("remove_management")
        changed: list[Place] = []
        for name in names:
            gone = self._host.world.namespaces.pop(name, None)
            if gone is not None:
                self._host.world.links.pop(gone.port, None)
                changed += [("namespaces", name), ("links", gone.port)]
        if changed:
            self._host.keep(*changed)

    async def connect(self, namespace: str, address: str, port: int) -> socket.socket:
        await self._host.call("connect", f"{address}:{port}")
        if namespace not in self._host.world.namespaces:
            raise DriverError(f"the management port {namespace} is not there")
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        task = asyncio.get_running_loop().create_task(_echo(theirs))
        _ECHOING.add(task)
        task.add_done_callback(_ECHOING.discard)
        return ours


async def _echo(endpoint: socket.socket) -> None:
    """Answer like a guest, and send back what comes."""
    loop = asyncio.get_running_loop()
    with endpoint, contextlib.suppress(OSError):
        await loop.sock_sendall(endpoint, _BANNER)
        while data := await loop.sock_recv(endpoint, 1 << 16):
            await loop.sock_sendall(endpoint, data)
