"""Derive what OVN needs on hosts from the state, as read back from ``state.json``."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvmcompose.core.chassis import Remotes
from kvmcompose.core.deployable import NetworkPlan
from kvmcompose.core.model import Host
from kvmcompose.core.ovn_hosts import Central, ChassisSpec, HostPort, Outside
from kvmcompose.core.resource import Ref, Resource
from kvmcompose.core.state import State
from kvmcompose.networks import _ovn_management
from kvmcompose.networks._ovn_artefacts import libvirt_network
from kvmcompose.networks._ovn_model import OvnState
from kvmcompose.networks._ovn_northbound import northbound
from kvmcompose.networks._ovn_ports import logical_interfaces

#: Where OVN's southbound database listens on its own host, and for others (ovn-ctl(8)).
_SOCKET, _PORT = "unix:/run/ovn/ovnsb_db.sock", 6642


def network_plan(state: State) -> NetworkPlan:
    """See ``Dialect.network_plan``."""
    network = msgspec.convert(state.network, OvnState, from_attributes=True)
    libvirt = libvirt_network(state, network)
    ways = _ovn_management.access(state, network)
    return NetworkPlan(
        network=libvirt,
        resources=(*_resources(state, network), *_ovn_management.resources(state, network, ways)),
        # golden images are on the libvirt network
        reachable=frozenset({libvirt.name} if libvirt is not None else ()),
        mtu=network.mtu,
        databases=network.remotes or Remotes(),
        management=ways,
        direct=_direct(state, network),
    )


def _direct(state: State, network: OvnState) -> dict[str, str]:
    """Return the guests on switches that the main host has an interface on, with their IPv4 addresses.

    A switch with rules that deny anything does not count: whether they let the host in is not known here.
    """
    main = state.main_host.name
    near = {
        port.parent_switch
        for name, port in network.switch_ports.items()
        if name in network.ovs_ports
        and network.ovs_ports[name].testbed_host == main
        and any(":" not in ip for ip in port.ip)
    }
    if network.acl.apply_deny_all:
        return {}
    near -= {
        switch
        for switch, rules in network.acl.switches.items()
        if any(not rule.action.startswith("allow") for rule in rules)
    }
    found: dict[str, str] = {}
    for guest, _, nic in logical_interfaces(state):
        addresses = [each for each in nic.addresses if ":" not in each]
        if nic.bridge in near and addresses and nic.is_in_reach:
            found.setdefault(guest.name, addresses[0])
    return found


def _resources(state: State, network: OvnState) -> Iterator[Resource]:
    main = state.main_host
    if network.remotes is None and len(state.testbed_hosts) > 1:
        yield Resource(ref=Ref("ovn-central", main.ip, main.name), spec=Central(address=main.ip))
    for host in state.testbed_hosts.values():
        yield Resource(ref=Ref("ovn-chassis", host.name, host.name), spec=_chassis(host, main, network))
    yield from _outsides(state, network)
    for row in northbound(state):
        yield Resource(ref=Ref("ovn-row", str(row.ref), main.name), spec=row)
    for port in network.ovs_ports.values():
        spec = HostPort(
            name=port.name,
            bridge=port.integration_bridge_name,
            interface_id=port.lsp_name,
            mac=port.mac_address,
            addresses=port.ip,
            mtu=port.mtu,
            datapath_type=state.testbed_hosts[port.testbed_host].datapath_type,
        )
        yield Resource(ref=Ref("ovn-host-port", port.name, port.testbed_host), spec=spec)


def _chassis(host: Host, main: Host, network: OvnState) -> ChassisSpec:
    settings = host.chassis
    if network.remotes is not None:
        remote = ",".join(network.remotes.ovn_southbound)
    elif host.is_main_host:
        remote = _SOCKET
    else:
        remote = f"ssl:[{main.ip}]:{_PORT}" if ":" in main.ip else f"ssl:{main.ip}:{_PORT}"
    return ChassisSpec(
        name=host.chassis_name,
        remote=remote,
        encap_ip=settings.encap_ip or host.ip,
        encap_type=settings.encap_type,
        bridge=settings.bridge,
        datapath_type=host.datapath_type,
        keys=network.remotes is None and not host.is_main_host,
    )


def _outsides(state: State, network: OvnState) -> Iterator[Resource]:
    """Yield the bridges of provider networks, on the hosts whose packets go there."""
    for port in network.switch_ports.values():
        provider = port.provider_network_name
        if provider is None or port.mac_address is not None:
            continue
        for name in _leaving(state, network, port.parent_switch):
            host = state.testbed_hosts[name]
            for physical, bridge, address in host.chassis.bridge_mappings:
                if physical == provider:
                    spec = Outside(
                        network=physical,
                        bridge=bridge,
                        address=address,
                        datapath_type=host.datapath_type,
                        has_guests=_has_guests(state, network, port.parent_switch),
                    )
                    yield Resource(ref=Ref("ovn-outside", bridge, name), spec=spec)


def _has_guests(state: State, network: OvnState, switch: str) -> bool:
    """Return whether anything but routers is on a switch."""
    return any(
        port.parent_switch == switch and port.mac_address for port in network.switch_ports.values()
    ) or any(nic.bridge == switch for _, _, nic in logical_interfaces(state))


def _leaving(state: State, network: OvnState, switch: str) -> list[str]:
    """Return the hosts where packets leave a switch: gateways of its routers, hosts of guests on it."""
    gateways = {
        port.chassis_name
        for port in network.router_ports.values()
        if port.switch == switch and port.chassis_name is not None
    }
    found = {name for name, chassis in network.chassis.items() if chassis in gateways}
    found |= {
        guest.testbed_host
        for guest in state.testbed_guests.values()
        if any(nic.bridge == switch and nic.attach == "ovn" for nic in guest.interfaces)
    }
    return sorted(found) or [state.main_host.name]
