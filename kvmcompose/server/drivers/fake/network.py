"""Switches, links and packets of a host that is not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from ipaddress import IPv4Network

from kvmcompose.core.deployable import VethPair
from kvmcompose.core.deployment import Capture
from kvmcompose.server.drivers import Attached, SwitchPlan
from kvmcompose.server.drivers.fake.packets import file_header, record
from kvmcompose.server.drivers.fake.world import FakeHost

#: Seconds between two packets of fake guests.
_PING_SECONDS = 0.01


class FakeSwitches:
    """See ``Switches``."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def check(self) -> None:
        """It is always there."""
        await self._host.call("check")

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        """Those of other projects."""
        await self._host.call("foreign", plan.project)
        mine = self._host.world.bridges.get(plan.project, {})
        others = {name for each in self._host.world.bridges.values() for name in each} - mine.keys()
        return [bridge.name for bridge in plan.bridges if bridge.name in others]

    async def elsewhere(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        """Ports of other projects' bridges."""
        await self._host.call("elsewhere", project)
        bridges = self._host.world.bridges
        others = {
            port for each in bridges if each != project for found in bridges[each].values() for port in found
        }
        return sorted(others & set(ports))

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        """The project's bridges and their ports."""
        await self._host.call("bridges", project)
        return self._host.world.bridges.get(project, {})

    async def apply(self, plan: SwitchPlan) -> None:
        """All in one."""
        await self._host.call("apply_bridges", plan.project)
        bridges = self._host.world.bridges.setdefault(plan.project, {})
        for bridge in plan.bridges:
            bridges.setdefault(bridge.name, [])
        ports = [(veth.left_bridge, veth.left) for veth in plan.veths]
        ports += [(veth.right_bridge, veth.right) for veth in plan.veths if not veth.right_is_linux]
        ports += [(tunnel.bridge, tunnel.name) for tunnel in plan.tunnels]
        ports += [(nic.bridge, nic.nic) for nic in plan.nics]
        for bridge_name, port in ports:
            if port not in bridges[bridge_name]:
                bridges[bridge_name].append(port)
        self._host.keep()

    async def remove(self, names: Sequence[str]) -> None:
        """All in one."""
        await self._host.call("remove_bridges")
        for project, bridges in list(self._host.world.bridges.items()):
            for name in names:
                bridges.pop(name, None)
            if not bridges:
                del self._host.world.bridges[project]
        self._host.keep()


class FakeLinks:
    """See ``Links``."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def attached(self) -> Sequence[Attached]:
        """It is in no subnet."""
        await self._host.call("attached")
        return [Attached(IPv4Network(each), name) for each, name in self._host.world.subnets.items()]

    async def present(self, names: Sequence[str]) -> frozenset[str]:
        """Those that are there."""
        await self._host.call("present")
        return frozenset(names) & frozenset(self._host.world.links)

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:  # noqa: ARG002
        """All in one."""
        await self._host.call("apply_links")
        for veth in veths:
            for name in (veth.left, veth.right):
                if name not in self._host.world.links:
                    self._host.world.links.append(name)
        self._host.keep()

    async def remove(self, names: Sequence[str]) -> None:
        """All in one; with one end goes the other (which has the name that the project gives it)."""
        await self._host.call("remove_links")
        links = self._host.world.links
        for name in names:
            if name in links:
                at = links.index(name)
                del links[at : at + 2]  # pairs are made together, the left end first
        self._host.keep()


class FakeCaptures:
    """See ``Captures``. Guests ping each other as long as any is on; filters let everything through."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def check_filter(self, expression: str) -> str | None:
        """Of the syntax only parentheses are understood."""
        await self._host.call("check_filter", expression)
        return None if expression.count("(") == expression.count(")") else "syntax error"

    async def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets of a guest."""
        await self._host.call("capture", name)
        async for chunk in self._pings(wanted):
            yield chunk

    async def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """The same packets, with a port of the bridge that is there meanwhile."""
        await self._host.call("mirror", name)
        port = f"cap-{id(wanted) & 0xFFFF:x}"
        ports = self._host.world.bridges[project][name]
        ports.append(port)
        try:
            async for chunk in self._pings(wanted):
                yield chunk
        finally:
            ports.remove(port)

    async def _pings(self, wanted: Capture) -> AsyncGenerator[bytes]:
        yield file_header(wanted.snaplen)
        number = 0
        while number != wanted.count and any(each.started for each in self._host.world.domains.values()):
            yield record(number, wanted.snaplen, time.time())
            await asyncio.sleep(_PING_SECONDS)
            number += 1
