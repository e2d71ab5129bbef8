"""Transactions of ``ovs-vsctl``, one per call: the arguments that create, set, move and remove.

A port moves as the row that it is: the row is taken from one bridge's ports and added to another's. So it
keeps its columns, and what has the interface open (QEMU a tap) does not notice. Commands are grouped,
because ovs-vsctl reads all bridges and ports again for each ``add-port`` that follows another kind of
command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kvmcompose.core.deployable import SwitchBridge
from kvmcompose.core.names import first_few
from kvmcompose.core.nic import Trunk, normal_vlan
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.database import ID_KEY, MAC_KEY, PROJECT_KEY, Database, PortRow
from kvmcompose.providers.ovs.interface import (
    FAIL_MODE,
    GENEVE,
    FoundBridge,
    GuestPort,
    SwitchChange,
    SwitchPlan,
    normal_protocol,
    tunnel_options,
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PROTOCOLS = re.compile(r"OpenFlow1[0-5](,OpenFlow1[0-5])*")
_CONTROLLER = re.compile(r"p?(tcp|ssl|unix):[^\s,\"]*")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


def arguments_to_remove(names: Iterable[str]) -> list[str]:
    """Return the arguments of ``ovs-vsctl`` that remove bridges with their ports."""
    return [
        word for name in names for word in ("--", "--if-exists", "del-br", _checked(_NAME, name, "bridge"))
    ]


def project_mark(project: str) -> str:
    """Return the column that marks a row of the database as the project's."""
    return f"external_ids:{PROJECT_KEY}={_checked(_PROJECT, project, 'project')}"


def _datapath(plan: SwitchPlan) -> str:
    if plan.datapath_type not in ("system", "netdev"):
        raise DriverError(f"unknown datapath_type {plan.datapath_type!r} (it is system or netdev)")
    return plan.datapath_type


def _device_ports(plan: SwitchPlan) -> Iterator[tuple[str, str]]:
    """Yield the interfaces of the host that are to be ports, with their bridges."""
    for pair in plan.veths:
        yield pair.left, pair.left_bridge
        if not pair.right_is_linux:
            yield pair.right, pair.right_bridge
    for nic in plan.nics:
        yield nic.nic, nic.bridge


def _protocols(bridge: SwitchBridge) -> str:
    protocols = _checked(_PROTOCOLS, bridge.protocol, "protocol") if bridge.protocol else "[]"
    return f"protocols={protocols}"


def _controller(bridge: SwitchBridge) -> list[str]:
    if not bridge.controller:
        return ["--", "del-controller", bridge.name]
    controller = _checked(_CONTROLLER, bridge.controller, "controller")
    return ["--", "set-controller", bridge.name, controller]


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise DriverError(f"invalid {what} for Open vSwitch: {text!r}")
    return text


def arguments_to_change(change: SwitchChange, found: Database) -> list[list[str]]:
    """Return the arguments of the calls of ``ovs-vsctl`` that carry out a change; none if nothing differs.

    There are two only when a port has to be removed before it is created. Raises DriverError for values
    that ovs-vsctl would misinterpret, and for bridges and ports that are not the project's.
    """
    refuse_foreign(change, found)
    wanted = dict(wanted_ports(change))
    removed = [
        name for name in dict.fromkeys(change.removed_ports)
        if name in found.ports
        and change.project in (found.owners[found.ports[name].bridge], found.ports[name].project)
    ]  # fmt: skip
    again = [name for name in removed if name in wanted]
    before = [word for name in again for word in _del_port(name)]
    ports = {name: row for name, row in found.ports.items() if name not in again}
    arguments = [
        *_bridges(change, found),
        *_moves(wanted, ports),
        *_additions(change, ports),
        *_settings(change, ports),
        *(word for name in removed if name not in again for word in _del_port(name)),
        *_removals(change, found),
    ]
    return [each for each in (before, arguments) if each]


def bridges_moved_to(change: SwitchChange, found: Database) -> list[str]:
    """Return the bridges to which guests' ports come."""
    return sorted({
        guest.bridge
        for guest in change.guests
        if guest.name not in found.ports or found.ports[guest.name].bridge != guest.bridge
    })  # fmt: skip


def refuse_foreign(change: SwitchChange, found: Database) -> None:
    """Raise DriverError for bridges and ports that are not the project's, and for missing bridges."""
    named = {bridge.name for bridge in change.bridges}
    kept = {name for name, owner in found.owners.items() if owner == change.project}
    integration = {guest.bridge for guest in change.guests if guest.integration}
    allowed = kept - set(change.removed_bridges) | named | integration & found.owners.keys()
    others = sorted(name for name in named if found.owners.get(name, change.project) != change.project)
    if others:
        raise DriverError(f"names are taken by other Open vSwitch bridges: {first_few(others)}")
    macs = {guest.name: guest.mac for guest in change.guests}
    for name, bridge in wanted_ports(change):
        if bridge not in allowed:
            raise DriverError(f"the port {name} needs the bridge {bridge}, which the project does not have")
        row = found.ports.get(name)
        if row is None or found.owners[row.bridge] == change.project:
            continue
        if name not in macs or (row.port.mac or "").lower() != macs[name].lower():
            raise DriverError(
                f"the interface {name} is a port of the bridge {row.bridge}, which is not the project's",
                hint=f"if it may be taken from there: ovs-vsctl del-port {row.bridge} {name}",
            )


def wanted_ports(change: SwitchChange) -> Iterator[tuple[str, str]]:
    """Yield all ports that are to exist, with their bridges."""
    for name, bridge in marked_ports(change):
        yield _checked(_NAME, name, "port"), _checked(_NAME, bridge, "bridge")
    for guest in change.guests:
        yield _checked(_NAME, guest.name, "port"), _checked(_NAME, guest.bridge, "bridge")


def marked_ports(plan: SwitchPlan) -> Iterator[tuple[str, str]]:
    """Yield the ports that kvm-compose creates, with their bridges; libvirt creates those of guests."""
    yield from _device_ports(plan)
    for tunnel in plan.tunnels:
        yield tunnel.name, tunnel.bridge


def _bridges(change: SwitchChange, found: Database) -> Iterator[str]:
    """Create the bridges that are missing, then set what differs.

    A controller that stays is not set: that would drop its connection.
    """
    mark, datapath = project_mark(change.project), _datapath(change)
    for bridge in change.bridges:
        if bridge.name not in found.bridges:
            yield from ("--", "--may-exist", "add-br", _checked(_NAME, bridge.name, "bridge"))
    for bridge in change.bridges:
        there = found.bridges.get(bridge.name) or FoundBridge(name=bridge.name, datapath_type="")
        columns = [] if bridge.name in found.bridges else [mark]
        if there.datapath_type != datapath:
            columns.append(f"datapath_type={datapath}")
        if there.protocol != normal_protocol(bridge.protocol):
            columns.append(_protocols(bridge))
        if there.fail_mode != FAIL_MODE:
            columns.append(f"fail_mode={FAIL_MODE}")
        if columns:
            yield from ("--", "set", "bridge", bridge.name, *columns)
    for bridge in change.bridges:
        there = found.bridges.get(bridge.name) or FoundBridge(name=bridge.name, datapath_type="")
        if there.controller != (bridge.controller or None):
            yield from _controller(bridge)


def _moves(wanted: dict[str, str], ports: dict[str, PortRow]) -> Iterator[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for name, bridge in wanted.items():
        if name in ports and ports[name].bridge != bridge:
            groups.setdefault((ports[name].bridge, bridge), []).append(ports[name].uuid)
    for (old, new), rows in groups.items():
        yield from ("--", "remove", "bridge", old, "ports", *rows)
        yield from ("--", "add", "bridge", new, "ports", *rows)


def _additions(change: SwitchChange, ports: dict[str, PortRow]) -> Iterator[str]:
    mark = project_mark(change.project)
    for name, bridge in marked_ports(change):
        if name not in ports:
            yield from ("--", "add-port", bridge, name, mark)
    for guest in change.guests:
        if guest.name not in ports:
            yield from ("--", "add-port", guest.bridge, guest.name, *([mark] if guest.integration else ()))


def _settings(change: SwitchChange, ports: dict[str, PortRow]) -> Iterator[str]:
    """Set what differs of the ports: marks, types and options of tunnels, MAC addresses of guests."""
    mark = project_mark(change.project)
    for name, _ in marked_ports(change):
        if name in ports and ports[name].project != change.project:
            yield from ("--", "set", "port", name, mark)
    for tunnel in change.tunnels:
        remote = _checked(_ADDRESS, tunnel.remote_ip, "tunnel's remote address")
        row = ports.get(tunnel.name)
        if row is None or (row.port.type, row.port.options) != (GENEVE, tunnel_options(tunnel)):
            options = f'options={{key="{tunnel.key:d}",remote_ip="{remote}"}}'
            yield from ("--", "set", "interface", tunnel.name, f"type={GENEVE}", options)
    for guest in change.guests:
        yield from _of_guest(guest, ports.get(guest.name))
        yield from _vlan(guest, ports.get(guest.name))


def _of_guest(guest: GuestPort, row: PortRow | None) -> Iterator[str]:
    """Write what libvirt writes, where the row was lost (virNetDevOpenvswitchAddPort)."""
    mac = _checked(_MAC, guest.mac, "MAC address")
    is_its_own = row is not None and (row.port.mac or "").lower() == mac.lower()
    if row is not None and is_its_own and guest.interface_id in ("", row.port.interface_id):
        return
    ids = {ID_KEY: guest.interface_id, "vm-id": guest.vm_id}
    yield from (
        "--", "set", "interface", guest.name,
        f'external_ids:{MAC_KEY}="{mac}"', "external_ids:iface-status=active",
        *(f'external_ids:{key}="{_checked(_UUID, each, "UUID")}"' for key, each in ids.items() if each),
    )  # fmt: skip


def _vlan(guest: GuestPort, row: PortRow | None) -> Iterator[str]:
    """Set what libvirt sets for a <vlan> (virNetDevOpenvswitchConstructVlans)."""
    there = row.port.vlan if row is not None else None
    if guest.integration or normal_vlan(guest.vlan) == normal_vlan(there):
        return
    if isinstance(guest.vlan, Trunk):
        native, of = guest.vlan.native, guest.vlan.trunk
        trunks = ",".join(str(int(each)) for each in (native, *of) if each is not None)
        columns = [f"trunks={trunks}", f"tag={'[]' if native is None else int(native)}"]
        columns.append(f"vlan_mode={'trunk' if native is None else 'native-untagged'}")
    else:
        columns = ["trunks=[]", f"tag={'[]' if guest.vlan is None else int(guest.vlan)}", "vlan_mode=[]"]
    yield from ("--", "set", "port", guest.name, *columns)


def _del_port(name: str) -> tuple[str, ...]:
    return ("--", "--if-exists", "del-port", _checked(_NAME, name, "port"))


def _removals(change: SwitchChange, found: Database) -> list[str]:
    """Remove bridges: those of the project, with the ports that no guest was moved from."""
    kept = {bridge.name for bridge in change.bridges}
    return arguments_to_remove(
        name
        for name in dict.fromkeys(change.removed_bridges)
        if found.owners.get(name) == change.project and name not in kept
    )
