"""What a network of OVN reaches on its hosts beyond their integration bridges."""

from __future__ import annotations

from collections.abc import Iterator

from kvmcompose.core.chassis import USUAL_MAPPINGS, ChassisConfig, Remotes
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.state import State
from kvmcompose.networks._ovn_model import OvnState


def privileges(state: State, network: OvnState) -> Iterator[Privilege]:
    """Yield provider networks, interfaces of hosts, integration bridges and databases.

    The usual provider network is not listed: kvm-compose makes its bridge, which leads outside by NAT, as
    that of bridges does. One with another name, bridge or address may lead to machines beside the host.
    """
    for name, port in network.switch_ports.items():
        if port.mac_address is None:
            for what in _mapped(state, port.provider_network_name):
                yield Privilege(PrivilegeKind.PROVIDER, what, f"port {name}")
    for name, own in network.ovs_ports.items():
        what = f"{', '.join(own.ip)} of the host {own.testbed_host}"
        yield Privilege(PrivilegeKind.HOST_PORT, what, f"port {name}")
    for host in state.testbed_hosts.values():
        if host.chassis.bridge != ChassisConfig().bridge:
            what = f"{host.chassis.bridge} of the host {host.name}"
            yield Privilege(PrivilegeKind.INTEGRATION, what, "bridge")
    if network.remotes is not None:
        yield from _databases(network.remotes)


def _mapped(state: State, provider_network: str | None) -> Iterator[str]:
    for host in state.testbed_hosts.values():
        for mapping in host.chassis.bridge_mappings:
            if mapping[0] == provider_network and mapping not in USUAL_MAPPINGS:
                yield f"{mapping[0]}: bridge {mapping[1]} of the host {host.name}, {mapping[2]}"


def _databases(remotes: Remotes) -> Iterator[Privilege]:
    for key, members in (
        ("ovn_northbound", remotes.ovn_northbound),
        ("ovn_southbound", remotes.ovn_southbound),
    ):
        yield Privilege(PrivilegeKind.DATABASE, ", ".join(members), key)
    for key in ("ovn_private_key", "ovn_certificate", "ovn_ca_certificate"):
        path = getattr(remotes, key)
        if path is not None:
            yield Privilege(PrivilegeKind.FILE, repr(path), key)
