"""Which interfaces on hosts are the ports of logical switches, and by which addresses they are reached."""

from __future__ import annotations

import msgspec

from kvmcompose.core.deployable import LogicalTarget, Tap
from kvmcompose.core.state import State
from kvmcompose.networks._ovn_model import OvnState
from kvmcompose.networks._ovn_ports import logical_interfaces, port_names


def logical_targets(state: State) -> dict[str, LogicalTarget]:
    """Return switches and ports by the names that rules have for them, with and without the project's."""
    network = msgspec.convert(state.network, OvnState, from_attributes=True)
    taps: dict[str, Tap] = {}
    on: dict[str, list[Tap]] = {name: [] for name in network.switches}
    for guest, _, nic in logical_interfaces(state):
        tap = Tap(guest.testbed_host, nic.target, nic.source, nic.interface_id or "", guest.name)
        taps[tap.port] = tap
        on[nic.bridge].append(tap)
    parents = {port.name: port.parent_switch for port in network.switch_ports.values()}
    for port in network.ovs_ports.values():
        tap = Tap(port.testbed_host, port.name, port.integration_bridge_name, port.lsp_name)
        taps[tap.port] = tap
        on[parents[port.lsp_name]].append(tap)
    found: dict[str, LogicalTarget] = {}
    for name, switch in network.switches.items():
        found |= dict.fromkeys((name, switch.name), LogicalTarget(name, None, tuple(on[name])))
    for name, ports in port_names(state, network).items():
        for alias, known in ports.items():
            there = (taps[known],) if known in taps else ()
            found.setdefault(alias, LogicalTarget(name, alias, there))
    return found


def external_addresses(state: State) -> dict[str, tuple[str, ...]]:
    """Return the external addresses of each address that routers translate both ways."""
    network = msgspec.convert(state.network, OvnState, from_attributes=True)
    found: dict[str, tuple[str, ...]] = {}
    for router in network.routers.values():
        for nat in router.nat:
            if nat.nat_type == "dnat_and_snat":
                found[nat.logical_ip] = (*found.get(nat.logical_ip, ()), nat.external_ip)
    return found
