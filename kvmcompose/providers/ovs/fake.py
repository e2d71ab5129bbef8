"""Bridges of a simulated host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeBridge, FakePort
from kvmcompose.providers.ovs.database import Database, PortRow
from kvmcompose.providers.ovs.interface import (
    FAIL_MODE,
    GENEVE,
    FoundBridge,
    FoundPort,
    SwitchChange,
    SwitchPlan,
    normal_protocol,
    tunnel_options,
)
from kvmcompose.providers.ovs.transaction import marked_ports, refuse_foreign, wanted_ports


class FakeSwitches:
    """See ``Switches``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def check(self) -> None:
        await self._host.call("check")

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        await self._host.call("foreign", plan.project)
        owners = self._database().owners
        return [
            bridge.name for bridge in plan.bridges if owners.get(bridge.name, plan.project) != plan.project
        ]

    async def foreign_ports(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        await self._host.call("foreign_ports", project)
        bridges = self._host.world.bridges
        others = {
            port
            for each in bridges
            if each != project
            for found in bridges[each].values()
            for port in found.ports
        }
        return sorted(others & set(ports))

    async def observe(self, project: str, also: Collection[str] = ()) -> Mapping[str, FoundBridge]:
        await self._host.call("observe_bridges", project)
        return self._database().of(project, also)

    async def change(self, change: SwitchChange) -> None:
        await self._host.call("change_bridges", change.project)
        found = self._database()
        refuse_foreign(change, found)
        wanted = dict(wanted_ports(change))
        mine = {
            name
            for name, row in found.ports.items()
            if change.project in (found.owners[row.bridge], row.project)
        }
        for name in mine & set(change.removed_ports):
            self._take(name)
        moved = {
            name: port
            for name, bridge in wanted.items()
            if _is_elsewhere(found, name, bridge) and (port := self._take(name)) is not None
        }
        self._set(change, moved)
        bridges = self._bridges(change.project)
        for guest in change.guests:
            mark = change.project if guest.integration else None
            port = moved.get(guest.name) or FakePort(marked=False, project=mark)
            bridge = bridges.get(guest.bridge) or self._bridges("")[guest.bridge]
            port = bridge.ports.setdefault(guest.name, port)
            port.mac, port.interface_id = guest.mac, guest.interface_id or port.interface_id
            port.vlan = port.vlan if guest.integration else guest.vlan
        for name in set(change.removed_bridges) - {bridge.name for bridge in change.bridges}:
            bridges.pop(name, None)
        if not bridges:
            self._host.world.bridges.pop(change.project, None)
        others = {found.owners[found.ports[name].bridge] or "" for name in moved}
        others |= {""} if any(guest.integration for guest in change.guests) else set()
        self._keep({change.project} | others, [*wanted, *change.removed_ports])

    async def remove(self, names: Sequence[str]) -> None:
        await self._host.call("remove_bridges")
        for project, bridges in list(self._host.world.bridges.items()):
            for name in names:
                bridges.pop(name, None)
            if not bridges:
                del self._host.world.bridges[project]
            self._keep({project}, [])

    def _keep(self, projects: Iterable[str], ports: Iterable[str]) -> None:
        links = self._host.world.links
        attached = [("links", name) for name in ports if name in links]
        self._host.keep(*(("bridges", project) for project in projects), *attached)

    # -- what is there

    def _bridges(self, project: str) -> dict[str, FakeBridge]:
        return self._host.world.bridges.get(project, {})

    def _database(self) -> Database:
        owners: dict[str, str | None] = {}
        found: dict[str, FoundBridge] = {}
        ports: dict[str, PortRow] = {}
        for project, bridges in self._host.world.bridges.items():
            for name, bridge in bridges.items():
                owners[name], found[name] = project or None, _found(name, bridge)
                for port, each in bridge.ports.items():
                    owner = each.project or (project if each.marked else None)
                    ports[port] = PortRow("", name, owner, _found_port(port, each))
        return Database(owners, found, ports)

    # -- what is done to it

    def _set(self, plan: SwitchPlan, moved: Mapping[str, FakePort] | None = None) -> None:
        """Create and set bridges, and ports except those of guests. ``moved`` are taken from elsewhere."""
        moved = moved or {}
        bridges = self._host.world.bridges.setdefault(plan.project, {})
        for each in plan.bridges:
            bridge = bridges.setdefault(each.name, FakeBridge())
            bridge.datapath_type, bridge.fail_mode = plan.datapath_type, FAIL_MODE
            bridge.protocol, bridge.controller = normal_protocol(each.protocol), each.controller or None
        for port, bridge_name in marked_ports(plan):
            self._add(bridges[bridge_name], port, moved)
        for tunnel in plan.tunnels:
            added = bridges[tunnel.bridge].ports[tunnel.name]
            added.type, added.options = GENEVE, tunnel_options(tunnel)

    def _add(self, bridge: FakeBridge, name: str, moved: Mapping[str, FakePort]) -> None:
        link = self._host.world.links.get(name)
        if link is not None and name not in bridge.ports:  # otherwise the switch has another one open
            link.attached = True
        bridge.ports.setdefault(name, moved.get(name) or FakePort()).marked = True

    def _take(self, name: str) -> FakePort | None:
        """Remove a port from the bridge that it is on, and return it."""
        if name in self._host.world.links:
            self._host.world.links[name].attached = False
        for bridges in self._host.world.bridges.values():
            for bridge in bridges.values():
                if name in bridge.ports:
                    return bridge.ports.pop(name)
        return None


def _is_elsewhere(found: Database, name: str, bridge: str) -> bool:
    return name in found.ports and found.ports[name].bridge != bridge


def _found(name: str, bridge: FakeBridge) -> FoundBridge:
    return FoundBridge(
        name=name,
        datapath_type=bridge.datapath_type,
        protocol=bridge.protocol,
        controller=bridge.controller,
        fail_mode=bridge.fail_mode,
        ports=tuple(
            _found_port(port, each) for port, each in sorted(bridge.ports.items()) if not each.capture
        ),
    )


def _found_port(name: str, port: FakePort) -> FoundPort:
    return FoundPort(
        name=name,
        type=port.type,
        options=dict(port.options),
        mac=port.mac,
        interface_id=port.interface_id,
        marked=port.marked,
        vlan=port.vlan,
        shaped=port.shaped,
        policed=port.policed,
    )
