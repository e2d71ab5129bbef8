"""Check that a build could have written the state of a network of OVN that is read back."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec

from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.model import Attachment, Machine
from kvmcompose.core.names import is_derived
from kvmcompose.core.state import Interface, State
from kvmcompose.networks import _ovn_management
from kvmcompose.networks._nics import check_mtu
from kvmcompose.networks._ovn_chassis import mtu
from kvmcompose.networks._ovn_check import AT, check
from kvmcompose.networks._ovn_model import (
    DYNAMIC,
    Dhcp,
    Internal,
    OvnNetwork,
    OvnState,
    Path,
    Router,
    RouterPort,
    Switch,
    SwitchNic,
    SwitchPort,
    by_family,
)
from kvmcompose.networks._ovn_ports import OVN, guest_port

_Complaints = Iterator[Complaint]


def check_state(state: State) -> _Complaints:
    """See ``Dialect.check_state``."""
    network = msgspec.convert(state.network, OvnState, from_attributes=True)
    found = [*_references(state, network)]
    if not found:  # otherwise the other checks would meet unknown names
        hosts = tuple(state.testbed_hosts.values())
        guests = list(state.testbed_guests)
        found += [
            _placed(each, guests)
            for each in check(written(network), _machines(state), hosts)
            if each.severity is Severity.ERROR
        ]
    if not found:
        found = [*_names(state, network), *_values(state, network)]
    if not found:
        found = [*_ovn_management.check_stored(state, network, written(network))]
    yield from found


def _wrong(path: Path, message: str, wanted: str) -> Complaint:
    return Complaint(code="bad-value", path=path, message=message, wanted=wanted)


def _placed(complaint: Complaint, guests: list[str]) -> Complaint:
    """Return a complaint about the YAML with the path of the value in the state, as far as there is one."""
    match complaint.path:
        case ("machines", int(index), *rest):
            path: Path = ("testbed_guests", guests[index], *rest)
        case path if path[: len(AT)] == AT:
            path = ("network", *path[len(AT) :])
        case path:
            pass
    return msgspec.structs.replace(complaint, path=path)


def _references(state: State, network: OvnState) -> _Complaints:
    at: Path = ("network",)
    for name, port in network.switch_ports.items():
        yield from _known(port.parent_switch, network.switches, (*at, "switch_ports", name, "parent_switch"))
        if (port.mac_address is None) == (name in network.ovs_ports):
            yield _wrong((*at, "switch_ports", name), "it is not in both lists of ports", "one entry in each")
    for name in network.ovs_ports.keys() - network.switch_ports.keys():
        yield _wrong(
            (*at, "ovs_ports", name), "there is no such port of a switch", "a port of 'switch_ports'"
        )
    for name, own in network.ovs_ports.items():
        yield from _known(own.testbed_host, state.testbed_hosts, (*at, "ovs_ports", name, "testbed_host"))
    for name, end in network.router_ports.items():
        yield from _known(end.parent_router, network.routers, (*at, "router_ports", name, "parent_router"))
        yield from _known(end.switch, network.switches, (*at, "router_ports", name, "switch"))
    for index, dhcp in enumerate(network.dhcp_options):
        path: Path = (*at, "dhcp_options", index)
        yield from _known(dhcp.switch, network.switches, (*path, "switch"))
        if dhcp.switch in network.switches and dhcp.cidr not in network.switches[dhcp.switch].subnet:
            yield _wrong((*path, "cidr"), f"{dhcp.cidr} is not a subnet of the switch", "one of its subnets")
        if _router_of(network, dhcp.switch, dhcp.router, dhcp.server_mac) is None:
            yield _wrong(path, f"no router has the address {dhcp.router} on the switch", "a router's port")
    chassis = {name: host.chassis_name for name, host in state.testbed_hosts.items()}
    if network.chassis != chassis:
        yield _wrong((*at, "chassis"), "not the names of the hosts in OVN", str(chassis))


def _known(name: str, names: dict[str, object] | object, path: Path) -> _Complaints:
    if name not in names:  # type: ignore[operator]
        yield _wrong(path, f"there is no {name!r}", f"one of: {', '.join(names)}")  # type: ignore[arg-type]


def _router_of(network: OvnState, switch: str, address: str, mac: str) -> str | None:
    """Return the router that serves DHCP on a switch."""
    for port in network.router_ports.values():
        ips = {each.partition("/")[0] for each in port.ip}
        if port.switch == switch and port.mac_address == mac and address in ips:
            return port.parent_router
    return None


def written(network: OvnState) -> OvnNetwork:
    """Return the network as the YAML would have it."""
    dhcp: dict[tuple[str, str], None] = {}
    for each in network.dhcp_options:
        router = _router_of(network, each.switch, each.router, each.server_mac)
        dhcp[str(router), each.switch] = None
    return OvnNetwork(
        switches={
            name: Switch(name, switch.subnet, tuple(_ports(name, network)))
            for name, switch in network.switches.items()
        },
        routers={
            name: Router(
                name,
                tuple(
                    RouterPort(key, port.mac_address, port.ip, port.switch, port.chassis_name)
                    for key, port in network.router_ports.items()
                    if port.parent_router == name
                ),
                router.routing,
                router.nat,
                tuple(Dhcp(switch) for owner, switch in dhcp if owner == name),
            )
            for name, router in network.routers.items()
        },
        acl=network.acl,
    )


def _ports(switch: str, network: OvnState) -> Iterator[SwitchPort]:
    for name, port in network.switch_ports.items():
        if port.parent_switch != switch:
            continue
        if port.mac_address is None:
            yield SwitchPort(name, localnet=port.provider_network_name)
        else:
            internal = Internal(port.ip, port.mac_address, port.provider_network_name)
            yield SwitchPort(name, network.ovs_ports[name].testbed_host, internal)


def _machines(state: State) -> tuple[Machine, ...]:
    """Return the guests as machines of the YAML. Golden images are on no switch."""
    found = []
    for number, guest in enumerate(state.testbed_guests.values()):
        attachments = tuple(
            Attachment(nic.bridge, nic.mac, nic.ip, _nic(nic, index))
            for index, nic in enumerate(guest.interfaces)
            if nic.attach == OVN
        )
        if attachments or not guest.is_golden_image:
            found.append(Machine(guest.name, guest.kind, None, attachments, (), number))
    return tuple(found)


def _nic(nic: Interface, index: int) -> SwitchNic:
    gateways = tuple(each for each in (nic.gateway, nic.ipv6_gateway) if each is not None)
    return SwitchNic(("interfaces", index), nic.addresses, gateways)


def _names(state: State, network: OvnState) -> _Complaints:
    """Check that names contain the project's name, so that no state refers to another project."""
    for path, found, wanted in (*_exact(state, network), *_port_ids(state)):
        if found != wanted:
            yield _wrong(path, f"{found!r} is not the derived name", str(wanted))
    taken: set[str] = set()
    for path, given, of in _derived(state, network):
        if not is_derived(given, of):
            yield _wrong(path, f"{given!r} is not the derived name", f"{of}, shortened")
        elif given in taken:
            yield _wrong(path, f"{given!r} is already the name of something else", "a name of its own")
        taken.add(given)


def _exact(state: State, network: OvnState) -> Iterator[tuple[Path, str | None, str | None]]:
    project = state.project_name
    for kind in ("switches", "routers", "switch_ports"):
        for key, each in getattr(network, kind).items():
            yield ("network", kind, key, "name"), each.name, f"{project}-{key}"
    for kind in ("ovs_ports", "router_ports"):
        for key, each in getattr(network, kind).items():
            yield ("network", kind, key, "lsp_name"), each.lsp_name, f"{project}-{key}"
    for key, end in network.router_ports.items():
        yield ("network", "router_ports", key, "name"), end.name, f"rp-{project}-{key}"
    golden = any(guest.is_golden_image for guest in state.testbed_guests.values())
    name = f"{project}-network" if golden else None
    yield ("network", "libvirt_network_name"), network.libvirt_network_name, name


def _port_ids(state: State) -> Iterator[tuple[Path, str | None, str | None]]:
    for guest in state.testbed_guests.values():
        for index, nic in enumerate(guest.interfaces):
            wanted = str(guest_port(guest.identity, index).uuid(state.project_name))
            at: Path = ("testbed_guests", guest.name, "interfaces", index, "interface_id")
            yield at, nic.interface_id, wanted if nic.attach == OVN else None


def _derived(state: State, network: OvnState) -> Iterator[tuple[Path, str, str]]:
    project = state.project_name
    for key, own in network.ovs_ports.items():
        yield ("network", "ovs_ports", key, "name"), own.name, f"{project}-{key}"
    if network.libvirt_network_bridge_name is not None:
        at: Path = ("network", "libvirt_network_bridge_name")
        yield at, network.libvirt_network_bridge_name, f"{project}-prjbr0"
    for guest in state.testbed_guests.values():
        for index, nic in enumerate(guest.interfaces):
            at = ("testbed_guests", guest.name, "interfaces", index, "target")
            yield at, nic.target, f"{project}-{guest.identity}-{index}"


def _values(state: State, network: OvnState) -> _Complaints:
    """Check what follows from other values: sources, MTU, prefix lengths, leases."""
    hosts = state.testbed_hosts
    most = mtu(tuple(hosts.values()))
    if network.mtu != most:
        yield _wrong(("network", "mtu"), "not the MTU of these hosts", str(most))
    for name, own in network.ovs_ports.items():
        port = network.switch_ports[name]
        bare = tuple(each.partition("/")[0] for each in own.ip)
        bridge = hosts[own.testbed_host].chassis.bridge
        given = (own.mac_address, bare, own.integration_bridge_name, own.mtu)
        if given != (port.mac_address, port.ip, bridge, most):
            yield _wrong(("network", "ovs_ports", name), "not the port of 'switch_ports'", "the same values")
    for guest in state.testbed_guests.values():
        for index, nic in enumerate(guest.interfaces):
            at: Path = ("testbed_guests", guest.name, "interfaces", index)
            if nic.attach == OVN and (guest.testbed_host not in hosts or nic.bridge not in network.switches):
                continue  # which is reported already
            if nic.attach == OVN:
                yield from _interface(nic, network, hosts[guest.testbed_host].chassis.bridge, at)
            elif nic.attach == "network" and guest.is_golden_image:
                name_there = str(network.libvirt_network_name)
                yield from _golden(nic, network, name_there, at)
            else:
                yield _wrong(at, f"{nic.attach!r} does not lead to this network", "a logical switch")


def _golden(nic: Interface, network: OvnState, name: str, at: Path) -> _Complaints:
    subnet = ipaddress.ip_network(network.libvirt_network_subnet or "0.0.0.0/32", strict=False)
    if (nic.bridge, nic.source) != (name, name):
        yield _wrong((*at, "source"), f"{nic.source!r} is not the network of golden images", name)
    if nic.ip == DYNAMIC or ipaddress.ip_address(nic.ip) not in subnet:
        yield _wrong((*at, "ip"), f"{nic.ip} is outside its network", str(subnet))


def _interface(nic: Interface, network: OvnState, bridge: str, at: Path) -> _Complaints:
    if nic.source != bridge:
        yield _wrong((*at, "source"), f"{nic.source!r} is not the integration bridge", bridge)
    yield from check_mtu(nic, network.mtu, at)
    lengths = {
        version: each.prefixlen for version, each in by_family(network.switches[nic.bridge].subnet).items()
    }
    addresses = nic.addresses
    if not addresses:
        yield _wrong((*at, "ip"), "it has no address", "an address, or a lease")
        return
    first = ipaddress.ip_address(addresses[0]).version
    if nic.prefix_length != lengths[first]:
        yield _wrong((*at, "prefix_length"), "not that of the subnet", str(lengths[first]))
    if nic.ipv6 not in (None, DYNAMIC) and str(nic.ipv6).partition("/")[2] != str(lengths.get(6)):
        yield _wrong((*at, "ipv6"), "it has another prefix length than the subnet", f"/{lengths.get(6)}")
    served = {":" in each.cidr for each in network.dhcp_options if each.switch == nic.bridge}
    for index, lease in enumerate(nic.leases):
        if (":" in lease) not in served:
            yield _wrong((*at, "leases", index), "there is no DHCP for it on the switch", "an address")
    dynamic = (nic.ip == DYNAMIC) + (nic.ipv6 == DYNAMIC)
    if dynamic != len(nic.leases):
        yield _wrong((*at, "leases"), f"{len(nic.leases)} leases for {dynamic} addresses", "one for each")
