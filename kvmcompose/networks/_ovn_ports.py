"""Names of logical ports: how the YAML calls them, and how OVN does."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from kvmcompose.core.northbound import RowRef
from kvmcompose.core.state import GuestState, Interface, State
from kvmcompose.networks._ovn_model import OvnState, by_family

#: Marks the interfaces of guests that are logical ports.
OVN = "ovn"


def guest_port(identity: str, index: int) -> RowRef:
    """Return the logical port of a guest's interface. It is the same on another switch, and in another name.

    Its name in OVN is the row's UUID: libvirt requires one as ``interfaceid``, and OVN binds ports by name.
    """
    return RowRef("Logical_Switch_Port", f"{identity} network[{index}]")


def logical_interfaces(state: State) -> Iterator[tuple[GuestState, int, Interface]]:
    """Yield the guests' interfaces that are logical ports, with their numbers."""
    for guest in state.testbed_guests.values():
        for index, nic in enumerate(guest.interfaces):
            if nic.attach == OVN:
                yield guest, index, nic


def isolated_switches(network: OvnState) -> set[str]:
    """Return the switches with neither a router nor a provider network: nothing beyond their guests."""
    joined = {port.switch for port in network.router_ports.values()}
    joined |= {port.parent_switch for port in network.switch_ports.values() if port.provider_network_name}
    return network.switches.keys() - joined


def resolvers(state: State, network: OvnState) -> dict[str, tuple[str, ...]]:
    """Return the addresses that guests on isolated switches ask for names, by switch.

    OVN answers questions for names whatever their destination, but a guest only sends them to an address
    that something answers ARP for.
    """
    isolated = isolated_switches(network)
    found: dict[str, dict[str, None]] = {}
    for _, _, nic in logical_interfaces(state):
        if nic.bridge in isolated:
            subnets = by_family(network.switches[nic.bridge].subnet)
            for each in map(ipaddress.ip_address, nic.nameservers):
                if each.version in subnets and each in subnets[each.version]:
                    found.setdefault(nic.bridge, {})[str(each)] = None
    return {switch: tuple(sorted(each)) for switch, each in found.items()}


def readable_name(project: str, guest: GuestState, index: int, nic: Interface) -> str:
    """Return the name of a guest's port that says what it is, as TestbedOS names it."""
    return f"{project}-{nic.bridge}-{guest.name}-{index}"


def port_names(state: State, network: OvnState) -> dict[str, dict[str, str]]:
    """Return, for every switch, what its ports may be called in a match, with the names in OVN.

    That is the readable name, and of a guest with one interface on the switch its name; each with and without
    that of the project.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in network.switches}
    prefix = f"{state.project_name}-"
    for port in network.switch_ports.values():
        found[port.parent_switch] |= dict.fromkeys((port.name, port.name.removeprefix(prefix)), port.name)
    for each in network.router_ports.values():
        found[each.switch] |= dict.fromkeys(
            (each.lsp_name, each.lsp_name.removeprefix(prefix)), each.lsp_name
        )
    once: dict[tuple[str, str], str | None] = {}
    for guest, index, nic in logical_interfaces(state):
        name = str(guest_port(guest.identity, index).uuid(state.project_name))
        readable = readable_name(state.project_name, guest, index, nic)
        found[nic.bridge] |= dict.fromkeys((readable, readable.removeprefix(prefix)), name)
        key = (nic.bridge, guest.name)
        once[key] = None if key in once else name
    for (switch, guest_name), only in once.items():
        if only is not None:
            found[switch].setdefault(guest_name, only)
            found[switch].setdefault(f"{prefix}{guest_name}", only)
    return found
