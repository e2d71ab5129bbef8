"""Bridges of a simulated host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.providers.ovs.interface import SwitchPlan


class FakeSwitches:
    """See ``Switches``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def check(self) -> None:
        await self._host.call("check")

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        await self._host.call("foreign", plan.project)
        mine = self._host.world.bridges.get(plan.project, {})
        others = {name for each in self._host.world.bridges.values() for name in each} - mine.keys()
        return [bridge.name for bridge in plan.bridges if bridge.name in others]

    async def foreign_ports(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        await self._host.call("foreign_ports", project)
        bridges = self._host.world.bridges
        others = {
            port for each in bridges if each != project for found in bridges[each].values() for port in found
        }
        return sorted(others & set(ports))

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        await self._host.call("bridges", project)
        return self._host.world.bridges.get(project, {})

    async def apply(self, plan: SwitchPlan) -> None:
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
        await self._host.call("remove_bridges")
        for project, bridges in list(self._host.world.bridges.items()):
            for name in names:
                bridges.pop(name, None)
            if not bridges:
                del self._host.world.bridges[project]
        self._host.keep()
