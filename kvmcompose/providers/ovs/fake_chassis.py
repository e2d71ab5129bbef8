"""Chassis of OVN, and ways to the outside, on a simulated host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kvmcompose.core.ovn_hosts import ChassisSpec, HostPort, Identity, Outside
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import MAIN, SimulatedHost
from kvmcompose.hosts.fake_world import FakeBridge, FakeOutside
from kvmcompose.providers.ovs.chassis import FoundChassis, from_settings, obstacle, refusal, to_set
from kvmcompose.providers.ovs.outside import FoundOutside
from kvmcompose.providers.ovs.outside_notes import OutsideBridge, OutsideUser, check_outside


class FakeHostChassis:
    """See ``HostChassis``."""

    def __init__(self, host: SimulatedHost, name: str) -> None:
        self._host = host
        self._name = name

    def _found(self) -> FoundChassis:
        chassis = self._host.world.ovn.chassis
        found = from_settings(chassis.settings, chassis.made, chassis.users, has_identity=chassis.keys)
        return msgspec.structs.replace(found, expires=chassis.expires)

    async def observe(self) -> FoundChassis:
        await self._host.call("observe_chassis")
        return self._found()

    async def join(self, project: str, wanted: ChassisSpec, identity: Identity | None = None) -> None:
        await self._host.call("join_ovn", project)
        found, chassis = self._found(), self._host.world.ovn.chassis
        why = obstacle(project, wanted, found)
        if why is not None:
            raise refusal(why, self._name)
        changed = to_set(wanted, found)
        chassis.settings |= changed
        chassis.made = sorted({*chassis.made, *changed})
        chassis.users = sorted({*chassis.users, project})
        if identity is not None:
            chassis.keys, chassis.expires = True, identity.expires
        chassis.carried_out = chassis.carried_out or self._host.beside(MAIN).ovn.changes
        self._host.world.bridges.setdefault("", {}).setdefault(wanted.bridge, FakeBridge())
        self._host.keep(("ovn",), ("bridges", ""))

    async def leave(self, project: str) -> None:
        await self._host.call("leave_ovn", project)
        self._detach(project)
        chassis = self._host.world.ovn.chassis
        chassis.users = [each for each in chassis.users if each != project]
        if not chassis.users:
            kept = {key: each for key, each in chassis.settings.items() if key not in chassis.made}
            chassis.settings, chassis.made = kept, []
        self._host.keep(("ovn",))

    async def detach(self, project: str) -> None:
        await self._host.call("detach_chassis", project)
        self._detach(project)
        self._host.keep(("ovn",))

    def _detach(self, project: str) -> None:
        chassis = self._host.world.ovn.chassis
        if {*chassis.users} <= {project}:
            chassis.settings = {
                key: each
                for key, each in chassis.settings.items()
                if key == "system-id" or key not in chassis.made
            }
            chassis.keys, chassis.expires, chassis.carried_out = False, "", 0

    async def check(self) -> None:
        await self._host.call("check_chassis")
        if not self._host.world.ovn.chassis.runs:
            raise DriverError(f"ovn-controller does not run on {self._name}")

    async def connected(self) -> bool:
        await self._host.call("chassis_connected")
        return self._host.world.ovn.chassis.runs


class FakeOutsides:
    """See ``Outsides``."""

    def __init__(self, host: SimulatedHost, name: str) -> None:
        self._host = host
        self._name = name

    async def observe(self, project: str) -> Sequence[FoundOutside]:
        await self._host.call("observe_outsides", project)
        ovn, found = self._host.world.ovn, []
        for name, each in ovn.outsides.items():
            if project not in each.users:
                continue
            user = msgspec.convert(each.users[project], OutsideUser)
            spec = Outside(
                network=user.network,
                bridge=name,
                address=user.address if each.kept else each.address,
                datapath_type=each.datapath_type,
                has_guests=user.has_guests,
            )
            found.append(
                FoundOutside(spec, "" if ovn.chassis.mappings.get(user.network) == name else "not mapped")
            )
        return found

    async def users(self, bridge: str) -> Mapping[str, str]:
        await self._host.call("users_outside", bridge)
        found = self._host.world.ovn.outsides.get(bridge)
        return {} if found is None else {key: each["network"] for key, each in found.users.items()}

    async def check(self, project: str, wanted: Outside) -> None:
        await self._host.call("check_outside", wanted.bridge)
        self._check(project, wanted)

    def _check(self, project: str, wanted: Outside) -> None:
        ovn = self._host.world.ovn
        bridges = {
            name: OutsideBridge(
                {key: msgspec.convert(user, OutsideUser) for key, user in each.users.items()},
                each.kept,
                frozenset(user["network"] for user in each.users.values()),
            )
            for name, each in ovn.outsides.items()
        }
        subnets = [(name, each.address) for name, each in ovn.outsides.items()]
        check_outside(project, wanted, bridges, ovn.chassis.mappings, subnets)

    async def create(self, project: str, wanted: Outside) -> None:
        await self._host.call("create_outside", wanted.bridge)
        self._check(project, wanted)
        ovn = self._host.world.ovn
        new = FakeOutside({}, wanted.address, wanted.datapath_type)
        there = ovn.outsides.setdefault(wanted.bridge, new)
        self._forget(project, wanted.bridge)
        there.users[project] = msgspec.to_builtins(OutsideUser.of(wanted))
        if not there.kept:
            there.address, there.datapath_type = wanted.address, wanted.datapath_type
        ovn.chassis.mappings[wanted.network] = wanted.bridge
        self._host.keep(("ovn",))

    async def remove(self, project: str, bridge: str) -> None:
        await self._host.call("remove_outside", bridge)
        ovn = self._host.world.ovn
        self._forget(project, bridge)
        if bridge in ovn.outsides and not ovn.outsides[bridge].users and not ovn.outsides[bridge].kept:
            del ovn.outsides[bridge]
        self._host.keep(("ovn",))

    def _forget(self, project: str, bridge: str) -> None:
        ovn = self._host.world.ovn
        there = ovn.outsides.get(bridge)
        user = there.users.pop(project, None) if there is not None else None
        if there is None or user is None:
            return
        if user["network"] not in {each["network"] for each in there.users.values()}:
            ovn.chassis.mappings.pop(user["network"], None)


class FakeHostPorts:
    """See ``HostPorts``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def observe(self, project: str) -> Sequence[HostPort]:
        await self._host.call("observe_host_ports", project)
        ports = self._host.world.ovn.host_ports.get(project, {})
        return [self._seen(msgspec.convert(each, HostPort)) for each in ports.values()]

    def _seen(self, port: HostPort) -> HostPort:
        if not port.is_pair:
            return port
        link = self._host.world.links.get(port.name)
        if link is None or not link.attached:
            return msgspec.structs.replace(port, bridge="", mtu=link.mtu if link is not None else 0)
        return msgspec.structs.replace(port, mtu=link.mtu)

    async def create(self, project: str, wanted: HostPort) -> None:
        await self._host.call("create_host_port", wanted.name)
        port = msgspec.to_builtins(msgspec.structs.replace(wanted, datapath_type=""))
        self._host.world.ovn.host_ports.setdefault(project, {})[wanted.name] = port
        self._host.keep(("ovn",))
        if wanted.is_pair:
            if wanted.name not in self._host.world.links:
                raise DriverError(f"there is no interface {wanted.name}")
            self._host.world.links[wanted.name].attached = True
            self._host.keep(("links", wanted.name))

    async def remove(self, name: str) -> None:
        await self._host.call("remove_host_port", name)
        everyones = self._host.world.ovn.host_ports
        for project in [*everyones]:
            everyones[project].pop(name, None)
            if not everyones[project]:
                del everyones[project]
        self._host.keep(("ovn",))
