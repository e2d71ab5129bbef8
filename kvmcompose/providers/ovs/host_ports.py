"""Interfaces of a host that are logical ports of OVN: ports of the integration bridge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.core.ovn_hosts import HostPort
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.database import ID_KEY, OvsdbTable
from kvmcompose.providers.ovs.driver import VSCTL, run_ovs

#: The keys in ``external_ids`` of the interface: its project and its bridge.
PROJECT_KEY, BRIDGE_KEY = "kvm-compose-host-port", "kvm-compose-bridge"
_LIST = ("--format=json", "--columns=name,external_ids,type", "list", "Interface")


class HostPorts(Protocol):
    """The interfaces of one host that are logical ports."""

    async def observe(self, project: str) -> Sequence[HostPort]:
        """Return those of a project; without ``datapath_type``, which is the bridge's.

        The end of a pair that the switch has not open, because it is gone or another one, has no bridge.
        """

    async def create(self, project: str, wanted: HostPort) -> None:
        """Create it, or set what differs. Raises DriverError for an interface of another owner."""

    async def remove(self, name: str) -> None:
        """Remove it."""


class OvsHostPorts:
    """See ``HostPorts``: ovs-vsctl(8), ip(8)."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def observe(self, project: str) -> Sequence[HostPort]:
        ours = {
            row["name"]: (row, ids)
            for row in await self._rows()
            if (ids := dict(row["external_ids"][1])).get(PROJECT_KEY) == project
        }
        links = {each["ifname"]: each for each in await self._links()} if ours else {}
        return [_found(row, ids, links.get(name, {})) for name, (row, ids) in ours.items()]

    async def create(self, project: str, wanted: HostPort) -> None:
        name = wanted.name
        for row in await self._rows():
            if row["name"] == name and dict(row["external_ids"][1]).get(PROJECT_KEY) != project:
                raise DriverError(
                    f"the interface {name} is a port of Open vSwitch already",
                    hint="give the project another name: --project-name",
                )
        if wanted.is_pair:  # otherwise the switch keeps an earlier pair open, also if it is deleted
            await self.remove(name)
        kind = [] if wanted.is_pair else ["type=internal", f'mac="{wanted.mac}"']
        await run_ovs(self._runner, [
            *VSCTL, "--", "--may-exist", "add-port", wanted.bridge, name,
            "--", "set", "interface", name, *kind,
            f'external_ids:{PROJECT_KEY}="{project}"', f'external_ids:{BRIDGE_KEY}="{wanted.bridge}"',
            f'external_ids:{ID_KEY}="{wanted.interface_id}"',
        ])  # fmt: skip
        if wanted.is_pair:
            return
        # a router of the testbed advertises itself, and would change the host's addresses and default route
        key = f"net/ipv6/conf/{name}/accept_ra"
        await self._runner.run(["sysctl", "-e", "-q", "-w", f"{key}=0"], privileged=True)
        lines = [f"address flush dev {name} scope global"]
        lines += [f"address replace {each} dev {name}" for each in wanted.addresses]
        lines += [f"link set dev {name} mtu {wanted.mtu} up"]
        batch = "".join(f"{line}\n" for line in lines)
        await self._runner.run(["ip", "-batch", "-"], stdin=batch.encode(), privileged=True)
        if wanted.datapath_type == "netdev":  # there is no hardware that would compute checksums
            await self._runner.run(["ethtool", "-K", name, "tx", "off"], privileged=True)

    async def remove(self, name: str) -> None:
        await run_ovs(self._runner, [*VSCTL, "--", "--if-exists", "del-port", name])

    async def _rows(self) -> Sequence[Mapping[str, Any]]:
        done = await run_ovs(self._runner, [*VSCTL, *_LIST])
        try:
            return list(msgspec.json.decode(done.stdout, type=OvsdbTable).rows())
        except (ValueError, LookupError, TypeError) as error:
            raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error

    async def _links(self) -> Sequence[dict[str, Any]]:
        done = await self._runner.run(["ip", "-json", "address", "show"])
        found: Sequence[dict[str, Any]] = json.loads(done.stdout or b"[]")
        return found


def _found(row: Mapping[str, Any], ids: Mapping[str, str], link: Mapping[str, Any]) -> HostPort:
    if row["type"] != "internal":
        is_open = "master" in link or "PROMISC" in link.get("flags", ())  # of either datapath
        return HostPort(
            name=row["name"],
            bridge=ids.get(BRIDGE_KEY, "") if is_open else "",
            interface_id=ids.get(ID_KEY, ""),
            mac="",
            addresses=(),
            mtu=link.get("mtu", 0),
            datapath_type="",
            is_pair=True,
        )
    addresses = (each for each in link.get("addr_info", ()) if each.get("scope") == "global")
    return HostPort(
        name=row["name"],
        bridge=ids.get(BRIDGE_KEY, ""),
        interface_id=ids.get(ID_KEY, ""),
        mac=link.get("address", ""),
        addresses=tuple(f"{each['local']}/{each['prefixlen']}" for each in addresses),
        mtu=link.get("mtu", 0),
        datapath_type="",
    )
