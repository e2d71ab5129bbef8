"""Specialise OVN's dialect: names in OVN, addresses, chassis, MTU."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.errors import Complaint, ComplaintsError
from kvmcompose.core.model import Guest, Host, PlacedTestbed
from kvmcompose.core.names import UniqueNames
from kvmcompose.core.state import Interface
from kvmcompose.networks import _addresses, _ovn_management
from kvmcompose.networks._ovn_addresses import (
    Assigned,
    SwitchAddresses,
    interface_path,
    macs,
    no_room,
)
from kvmcompose.networks._ovn_chassis import bridge_addresses, host_of, mtu
from kvmcompose.networks._ovn_check_acl import foreign_ports
from kvmcompose.networks._ovn_model import (
    DYNAMIC,
    DhcpState,
    OvnNetwork,
    OvnState,
    OvsPortState,
    RouterPortState,
    RouterState,
    SwitchNic,
    SwitchPortState,
    SwitchState,
    by_family,
)
from kvmcompose.networks._ovn_northbound import RESOLVERS
from kvmcompose.networks._ovn_ports import OVN, guest_port, isolated_switches

_Interfaces = dict[str, tuple[Interface, ...]]


def specialise(placed: PlacedTestbed) -> tuple[OvnState, _Interfaces, str | None]:
    """Return the network section of the state, every guest's interfaces, and no external bridge."""
    logical = placed.logical
    network: OvnNetwork = logical.network
    project = logical.project
    machines = {guest.machine.index: guest.machine for guest in logical.guests}
    foreign = [*foreign_ports(network, [*machines.values()], project, ("network", OVN, "acl"))]
    if foreign:
        raise ComplaintsError(foreign)
    names = UniqueNames()
    golden = [guest for guest in logical.guests if guest.is_golden_image]
    bridge = names.name(f"{project}-prjbr0") if golden else None
    addresses = _golden_addresses(project, golden, network) if golden else None
    nat = addresses.subnets[""] if addresses is not None else None
    router_ports = dict(_router_ports(project, network, logical.hosts))
    state = OvnState(
        dialect=logical.dialect,
        mtu=mtu(logical.hosts),
        chassis={host.name: host.chassis_name for host in logical.hosts},
        switches={
            name: SwitchState(f"{project}-{name}", switch.subnets)
            for name, switch in network.switches.items()
        },
        switch_ports=dict(_switch_ports(project, network)),
        ovs_ports=dict(_ovs_ports(placed, names)),
        routers={
            name: RouterState(f"{project}-{name}", router.static_routes, router.nat)
            for name, router in network.routers.items()
        },
        router_ports=router_ports,
        dhcp_options=tuple(_dhcp(network, router_ports)),
        acl=network.acl,
        remotes=logical.ovn,
        libvirt_network_name=f"{project}-network" if golden else None,
        libvirt_network_bridge_name=bridge,
        libvirt_network_subnet=str(nat.network) if nat else None,
        libvirt_network_gateway=nat.gateway if nat else None,
    )
    pools = {name: SwitchAddresses(network, name) for name in network.switches}
    for name, switch in network.switches.items():
        pools[name].keep(bridge_addresses(switch, logical.hosts))
    interfaces = _interfaces(placed, state, names, addresses, pools)
    if logical.management is not None:
        managed = _ovn_management.ManagedSwitches(
            project, network, logical.guests, logical.management, pools, interfaces
        )
        ports, full = managed.ports(state, names)
        if full:
            raise ComplaintsError(full)
        state = msgspec.structs.replace(state, management_ports=ports)
    return state, interfaces, None


def _golden_addresses(project: str, golden: Sequence[Guest], network: OvnNetwork) -> _addresses.Addresses:
    """Assign the addresses of golden images, in a subnet that no switch has."""
    requests = [
        _addresses.AddressRequest(
            guest.name, 0, "", None, None, ("machines", guest.machine.index), guest.identity
        )
        for guest in golden
    ]
    others = {
        name: _addresses.WrittenSubnet(subnet, ("network", OVN, "switches", name, "subnet"))
        for name, switch in network.switches.items()
        for subnet in by_family(switch.subnets).values()
        if isinstance(subnet, ipaddress.IPv4Network)
    }
    found, complaints = _addresses.assign(project, requests, "", others)
    if complaints:
        raise ComplaintsError(complaints)
    return found


def _switch_ports(project: str, network: OvnNetwork) -> Iterator[tuple[str, SwitchPortState]]:
    for name, switch in network.switches.items():
        for port in switch.ports:
            of = port.internal
            yield (
                port.name,
                SwitchPortState(
                    name=f"{project}-{port.name}",
                    parent_switch=name,
                    provider_network_name=port.localnet if of is None else of.network_name,
                    ip=tuple(each.partition("/")[0] for each in of.ip) if of is not None else (),
                    mac_address=of.mac if of is not None else None,
                ),
            )


def _ovs_ports(placed: PlacedTestbed, names: UniqueNames) -> Iterator[tuple[str, OvsPortState]]:
    logical = placed.logical
    network: OvnNetwork = logical.network
    for switch in network.switches.values():
        subnets = by_family(switch.subnets)
        for port in switch.ports:
            if port.internal is None:
                continue
            host = host_of(port.chassis, logical.hosts) if port.chassis else None
            host = host or logical.main_host
            lengths = {version: subnet.prefixlen for version, subnet in subnets.items()}
            ips = [ipaddress.ip_address(each.partition("/")[0]) for each in port.internal.ip]
            yield (
                port.name,
                OvsPortState(
                    name=names.name(f"{logical.project}-{port.name}"),
                    integration_bridge_name=host.chassis.bridge,
                    lsp_name=f"{logical.project}-{port.name}",
                    testbed_host=host.name,
                    mac_address=port.internal.mac,
                    ip=tuple(f"{each}/{lengths[each.version]}" for each in ips),
                    mtu=mtu(logical.hosts),
                ),
            )


def _router_ports(
    project: str, network: OvnNetwork, hosts: Sequence[Host]
) -> Iterator[tuple[str, RouterPortState]]:
    for name, router in network.routers.items():
        for port in router.ports:
            gateway = host_of(port.set_gateway_chassis, hosts) if port.set_gateway_chassis else None
            yield (
                port.name,
                RouterPortState(
                    name=f"rp-{project}-{port.name}",
                    lsp_name=f"{project}-{port.name}",
                    parent_router=name,
                    switch=port.switch,
                    mac_address=port.mac,
                    ip=port.gateway_ip,
                    chassis_name=gateway.chassis_name if gateway is not None else None,
                ),
            )


def _dhcp(network: OvnNetwork, router_ports: Mapping[str, RouterPortState]) -> Iterator[DhcpState]:
    for name, router in network.routers.items():
        for dhcp in router.dhcp:
            ports = (
                port
                for port in router_ports.values()
                if port.parent_router == name and port.switch == dhcp.switch
            )
            port = next(ports)
            ips = {each.version: str(each.ip) for each in map(ipaddress.ip_interface, port.ip)}
            for version, subnet in by_family(network.switches[dhcp.switch].subnets).items():
                if version in ips:
                    yield DhcpState(dhcp.switch, str(subnet), ips[version], port.mac_address)


def _interfaces(
    placed: PlacedTestbed,
    state: OvnState,
    names: UniqueNames,
    golden: _addresses.Addresses | None,
    pools: Mapping[str, SwitchAddresses],
) -> _Interfaces:
    logical = placed.logical
    network: OvnNetwork = logical.network
    for guest in logical.guests:
        for attachment in guest.attachments:
            pools[attachment.segment].give(attachment.own)
    resolvers = {
        name: pools[name].keep_resolver(
            sum(each.segment == name for guest in logical.guests for each in guest.attachments)
        )
        for name in isolated_switches(state)
    }
    hardware = macs(logical.project, network, logical.guests)
    hosts = {host.name: host for host in logical.hosts}
    complaints: list[Complaint] = []
    found: _Interfaces = {}
    for guest in logical.guests:
        if guest.is_golden_image and golden is not None:
            found[guest.name] = (_golden(guest, state, names, golden, hardware, logical.project),)
            continue
        nics = []
        routed: set[int] = set()
        for index, attachment in enumerate(guest.attachments):
            nic: SwitchNic = attachment.own
            pool = pools[attachment.segment]
            assigned = list(pool.assign(logical.project, guest, index, nic))
            if not assigned or None in assigned:
                subnets = ", ".join(state.switches[attachment.segment].subnet)
                complaints.append(no_room(interface_path(guest, nic), guest, subnets))
                continue
            base = Interface(
                bridge=attachment.segment,
                attach=OVN,
                source=hosts[placed.placement.guests[guest.name]].chassis.bridge,
                target=names.name(f"{logical.project}-{guest.identity}-{index}"),
                mac=hardware[guest.name, index],
                ip=DYNAMIC,
                prefix_length=0,
                mtu=state.mtu,
                interface_id=str(guest_port(guest.identity, index).uuid(logical.project)),
            )
            base = base.with_keys(attachment.keys)
            nics.append(_addressed(base, nic, [each for each in assigned if each], state, routed))
        found[guest.name] = _with_resolvers(nics, resolvers)
    if complaints:
        raise ComplaintsError(complaints)
    return found


def _with_resolvers(
    nics: Sequence[Interface], resolvers: Mapping[str, Mapping[int, str]]
) -> tuple[Interface, ...]:
    """Return interfaces with what to ask on isolated switches, of a guest that has no other resolver.

    It answers for names of guests only: for others it would be waited for in vain, before the other one.
    """
    if any(nic.nameservers or nic.leases for nic in nics):
        return tuple(nics)
    found = []
    for nic in nics:
        version = ipaddress.ip_address(nic.ip).version
        near = resolvers.get(nic.bridge, {}).get(version)
        found.append(msgspec.structs.replace(nic, nameservers=(near,)) if near is not None else nic)
    return tuple(found)


def _golden(
    guest: Guest,
    state: OvnState,
    names: UniqueNames,
    addresses: _addresses.Addresses,
    hardware: Mapping[tuple[str, int], str],
    project: str,
) -> Interface:
    """Return the interface of a golden image, in the NAT network of the main host."""
    subnet = addresses.subnets[""]
    name = str(state.libvirt_network_name)
    return Interface(
        bridge=name,
        attach="network",
        source=name,
        target=names.name(f"{project}-{guest.identity}-0"),
        mac=hardware[guest.name, 0],
        ip=addresses.ips[guest.name, 0],
        prefix_length=subnet.prefix_length,
        mtu=state.mtu,
        gateway=subnet.gateway,
    )


def _addressed(
    base: Interface, nic: SwitchNic, assigned: Sequence[Assigned], state: OvnState, routed: set[int]
) -> Interface:
    """Return an interface with its addresses. ``routed`` has the families that have a default route.

    A second default route would compete with the first.
    """
    gateways: dict[int, str] = {ipaddress.ip_address(each).version: each for each in nic.gateways}
    for dhcp in state.dhcp_options:
        version = ipaddress.ip_network(dhcp.cidr).version
        if dhcp.switch == base.bridge and any(
            each.is_lease and each.subnet.version == version for each in assigned
        ):
            gateways.setdefault(version, dhcp.router)
    gateways = {version: each for version, each in gateways.items() if version not in routed}
    routed.update(gateways)
    first, second = assigned[0], assigned[1] if len(assigned) > 1 else None
    resolver = _resolver(base.bridge, gateways, assigned, state)
    return msgspec.structs.replace(
        base,
        ip=DYNAMIC if first.is_lease else first.address,
        prefix_length=first.subnet.prefixlen,
        gateway=gateways.get(first.subnet.version),
        ipv6=_second(second),
        ipv6_gateway=gateways.get(second.subnet.version) if second is not None else None,
        leases=tuple(each.address for each in assigned if each.is_lease),
        nameservers=(resolver,) if resolver is not None else (),
    )


def _second(assigned: Assigned | None) -> str | None:
    if assigned is None:
        return None
    return DYNAMIC if assigned.is_lease else f"{assigned.address}/{assigned.subnet.prefixlen}"


def _resolver(
    switch: str, gateways: Mapping[int, str], assigned: Sequence[Assigned], state: OvnState
) -> str | None:
    """Return the address that a guest sends questions for names to; None where DHCP says it.

    OVN answers on the way, whatever the address, if the guest can send a packet there: without a default
    route that is a router on the switch.
    """
    static = [each for each in assigned if not each.is_lease]
    if len(static) < len(assigned):
        return None
    for each in static:
        if each.subnet.version in gateways:
            return RESOLVERS[each.subnet.version]
    versions = {each.subnet.version for each in static}
    near = (
        str(ip.ip)
        for port in state.router_ports.values()
        if port.switch == switch
        for ip in map(ipaddress.ip_interface, port.ip)
        if ip.version in versions
    )
    return next(near, None)
