"""What Open vSwitch's database has about bridges and ports, as ``ovs-vsctl --format=json list`` prints it.

The tables and columns are those of ovs-vswitchd.conf.db(5), their values as in RFC 7047, section 5.1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from kvmcompose.core.nic import Trunk, Vlan
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.interface import FoundBridge, FoundPort, normal_protocol

#: The key in ``external_ids`` of a bridge or port that holds the project's name.
PROJECT_KEY = "kvm-compose-project"
#: The key in ``external_ids`` of a port and a mirror that serve a capture; its value is the bridge.
CAPTURE_KEY = "kvm-compose-capture"
#: The key in an interface's ``external_ids`` where libvirt notes the guest's MAC address.
MAC_KEY = "attached-mac"
#: Likewise for the ID of the NIC, by which OpenFlow controllers and OVN know the port.
ID_KEY = "iface-id"

_Rows = list[dict[str, Any]]

#: The arguments that list all that ``parse_database`` needs, in one command.
LIST_ALL = (
    "--format=json",
    "--", "--columns=name,external_ids,datapath_type,fail_mode,protocols,controller,ports", "list", "Bridge",
    "--", "--columns=_uuid,name,interfaces,external_ids,tag,trunks,qos", "list", "Port",
    "--", "--columns=_uuid,type,options,external_ids,error,ingress_policing_rate", "list", "Interface",
    "--", "--columns=_uuid,target", "list", "Controller",
)  # fmt: skip


class OvsdbTable(msgspec.Struct, frozen=True):
    """A table that ``ovs-vsctl --format=json list`` prints."""

    headings: tuple[str, ...]
    data: tuple[tuple[Any, ...], ...]

    def rows(self) -> Iterable[dict[str, Any]]:
        return (dict(zip(self.headings, row, strict=True)) for row in self.data)


class PortRow(msgspec.Struct, frozen=True):
    """A port: the UUID of its row, its bridge and the project that it is marked with."""

    uuid: str
    bridge: str
    project: str | None
    port: FoundPort


class Database(msgspec.Struct, frozen=True):
    """All bridges with the project of each (None: of no project), and all ports."""

    owners: Mapping[str, str | None]
    bridges: Mapping[str, FoundBridge]
    ports: Mapping[str, PortRow]

    def of(self, project: str, also: Collection[str] = ()) -> dict[str, FoundBridge]:
        """Return the project's bridges, and others by name; ``marked`` ports are those of this project."""
        return {
            name: self.bridges[name]
            for name in sorted(self.bridges)
            if self.owners[name] == project or name in also
        }


def parse_database(output: bytes) -> Database:
    """Parse what ``LIST_ALL`` prints. Raises DriverError."""
    try:
        bridges, ports, interfaces, controllers = (
            list(msgspec.json.decode(line, type=OvsdbTable).rows())
            for line in output.splitlines()
            if line.strip()
        )
        return _database(bridges, ports, interfaces, controllers)
    except (ValueError, LookupError, TypeError) as error:  # msgspec's errors are ValueErrors
        raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error


def _database(bridges: _Rows, ports: _Rows, interfaces: _Rows, controllers: _Rows) -> Database:
    targets = {row["_uuid"][1]: row["target"] for row in controllers}
    interface_of = {row["_uuid"][1]: row for row in interfaces}
    port_of = {row["_uuid"][1]: row for row in ports}
    owners: dict[str, str | None] = {}
    found: dict[str, FoundBridge] = {}
    rows: dict[str, PortRow] = {}
    for row in bridges:
        name = row["name"]
        owners[name] = _map(row["external_ids"]).get(PROJECT_KEY)
        of_bridge: list[FoundPort] = []
        for uuid in uuids(row["ports"]):
            port = port_of.get(uuid)
            if port is None or port["name"] == name:
                continue
            # a bond has several interfaces, which kvm-compose never creates
            each = _port(port, interface_of.get(next(iter(uuids(port["interfaces"])), ""), {}), owners[name])
            rows[each.name] = PortRow(uuid, name, _map(port["external_ids"]).get(PROJECT_KEY), each)
            if CAPTURE_KEY not in _map(port["external_ids"]):
                of_bridge.append(each)
        found[name] = FoundBridge(
            name=name,
            datapath_type=row["datapath_type"],
            protocol=normal_protocol(",".join(_values(row["protocols"]))),
            controller=" ".join(sorted(targets[uuid] for uuid in uuids(row["controller"]) if uuid in targets))
            or None,
            fail_mode=next(iter(_values(row["fail_mode"])), None),
            ports=tuple(sorted(of_bridge, key=lambda port: port.name)),
        )
    return Database(owners, found, rows)


def _port(port: dict[str, Any], interface: dict[str, Any], project: str | None) -> FoundPort:
    noted = _map(interface.get("external_ids", ["map", []]))
    return FoundPort(
        name=port["name"],
        type=interface.get("type", ""),
        options=_map(interface.get("options", ["map", []])),
        mac=noted.get(MAC_KEY),
        interface_id=noted.get(ID_KEY),
        marked=project is not None and _map(port["external_ids"]).get(PROJECT_KEY) == project,
        error=next(iter(_values(interface.get("error", ["set", []]))), None),
        vlan=_vlan(port),
        shaped=bool(uuids(port.get("qos", ["set", []]))),
        policed=bool(interface.get("ingress_policing_rate")),
    )


def _vlan(port: dict[str, Any]) -> Vlan:
    tag: int | None = next(iter(_numbers(port.get("tag", ["set", []]))), None)
    trunk = tuple(_numbers(port.get("trunks", ["set", []])))
    return Trunk(tuple(each for each in trunk if each != tag), tag) if trunk else tag


def _numbers(value: Any) -> list[int]:
    """Return numbers; a column holds one by itself, none or several as a set."""
    return [value] if isinstance(value, int) else value[1]


def uuids(value: Any) -> list[str]:
    """Return references; a column holds one by itself, none or several as a set."""
    kind, content = value
    return [each[1] for each in content] if kind == "set" else [content]


def _values(value: Any) -> list[str]:
    """Return texts; a column holds one by itself, none or several as a set."""
    return [value] if isinstance(value, str) else value[1]


def _map(value: Any) -> dict[str, str]:
    return dict(value[1])
