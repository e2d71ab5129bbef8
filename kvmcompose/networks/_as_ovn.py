"""Convert a network of bridges into one of OVN: connected bridges become one logical switch.

The external bridge's network gets a router, with the gateway's address that guests have already, and a way
out to a provider network of the main host. What has no counterpart is a warning.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec

from kvmcompose.core.errors import Complaint, ComplaintsError, Severity
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.core.names import INTERFACE_NAME_LIMIT, first_few, stable_number
from kvmcompose.core.state import State
from kvmcompose.networks import AsOvn
from kvmcompose.networks._addresses import DYNAMIC, AddressRequest, WrittenSubnet, assign, derived_mac
from kvmcompose.networks._connected import connected
from kvmcompose.networks._ovn_chassis import MAIN_NAMES, host_of
from kvmcompose.networks._specialise import Network, NetworkState

_ROUTER, _PUBLIC = "gateway", "public"
#: The addresses of subnet and first router, and the broadcast address.
_KEPT = 3


def as_ovn(logical: LogicalTestbed, state: State) -> AsOvn:
    """Return the network of OVN with the same guests, addresses and reachability.

    Raises ComplaintsError for VLANs.
    """
    tagged = [*_tagged(logical)]
    if tagged:
        raise ComplaintsError(tagged)
    network: Network = logical.network
    home = connected(logical.topology)
    external = home[network.external_bridge] if network.external_bridge is not None else None
    subnets, static = _addresses(logical, state, home, external)
    switches: dict[str, Any] = {name: {"subnet": str(each)} for name, each in subnets.items()}
    notes = [
        *_lost(network, home),
        *_unreached(logical, home, external),
        *_unused(network, home, subnets),
        *_without_dhcp(logical, static),
    ]
    ovn: dict[str, Any] = {"switches": switches}
    if external in subnets:
        way_out = _way_out(logical, state, external, switches)
        if isinstance(way_out, Complaint):
            notes.append(way_out)
        else:
            ovn["routers"] = {_ROUTER: way_out}
    return AsOvn(home, {"ovn": ovn}, static, tuple(notes))


def _warning(path: tuple[str | int, ...], message: str, hint: str | None = None) -> Complaint:
    return Complaint(
        code="no-counterpart", path=path, message=message, hint=hint, severity=Severity.WARNING, at_key=True
    )


def _tagged(logical: LogicalTestbed) -> Iterator[Complaint]:
    machines = {guest.machine.index: guest.machine for guest in logical.guests}
    for machine in machines.values():
        for at, attachment in machine.interfaces():
            if attachment.keys.vlan is not None:
                yield Complaint(
                    code="no-counterpart",
                    path=("machines", machine.index, *at, "vlan"),
                    message="logical switches have no VLANs",
                    hint="give each VLAN a bridge of its own, and convert again",
                    at_key=True,
                )


def _lost(network: Network, home: dict[str, str]) -> Iterator[Complaint]:
    """Yield what logical switches do not have."""
    for index, bridge in enumerate(network.bridges):
        at = ("network", "bridges", index)
        if bridge.controller is not None:
            message = f"{bridge.name!r} loses its controller: OVN is that of logical switches"
            yield _warning((*at, "controller"), message, "rules of 'acl' and routes say what passes")
        if bridge.protocol is not None:
            message = f"{bridge.name!r} loses its OpenFlow versions: OVN uses those that it needs"
            yield _warning((*at, "protocol"), message)
    for index, nic in enumerate(network.network_interfaces):
        name, host, switch = nic.nic_name, nic.testbed_host, home[nic.testbed_bridge]
        on = f"br-{name}"[:INTERFACE_NAME_LIMIT]
        yield _warning(
            ("network", "network_interfaces", index),
            f"{name} of {host!r} is left out: a switch reaches a bridge that the config of the host names",
            f"on {host}: ovs-vsctl add-br {on} -- add-port {on} {name}; in 'bridge_mappings' of its "
            f'\'ovn\': ["{name}", "{on}", "ADDRESS/LENGTH"]; in the switch {switch!r}: '
            f"ports: [{{name: {name}, localnet: {{network_name: {name}}}}}]",
        )


def _unreached(logical: LogicalTestbed, home: dict[str, str], external: str | None) -> Iterator[Complaint]:
    """Yield the guests that the server reaches by the NAT network, and in the new one by nothing."""
    excepted = logical.management.excluded if logical.management is not None else None
    lost = [
        guest.name
        for guest in logical.guests
        if not guest.is_golden_image
        and (excepted is None or guest.name in excepted)
        and any(home[each.segment] == external for each in guest.attachments)
    ]
    if lost:
        hint = "add to the YAML: testbed_options: {management: true}"
        if excepted is not None:
            hint = "remove them from testbed_options.management.except"
        yield _warning(
            ("network", "external_bridge"),
            f"the server no longer reaches {first_few(lost)}, so `up` does not await or set them up",
            hint,
        )


def _unused(network: Network, home: dict[str, str], subnets: dict[str, Any]) -> Iterator[Complaint]:
    for index, bridge in enumerate(network.bridges):
        if home[bridge.name] not in subnets:
            message = f"{bridge.name!r} is left out: no guest is on it, nor on a bridge connected to it"
            yield _warning(("network", "bridges", index, "name"), message)


def _without_dhcp(logical: LogicalTestbed, static: dict[tuple[str, int], str]) -> Iterator[Complaint]:
    seen = set()
    for guest in logical.guests:
        for index in range(len(guest.attachments)):
            address = static.get((guest.name, index))
            at = (
                (*guest.interfaces_path, index) if guest.name == guest.machine.name else guest.interfaces_path
            )
            if address is not None and at not in seen:
                seen.add(at)
                message = f"there is no DHCP on this network: {guest.name!r} gets the address {address}"
                yield msgspec.structs.replace(_warning(at, message), at_key=False)


def _addresses(
    logical: LogicalTestbed, state: State, home: dict[str, str], external: str | None
) -> tuple[dict[str, ipaddress.IPv4Network], dict[tuple[str, int], str]]:
    """Return the subnets of networks that guests are on, and the addresses that replace ``dynamic``."""
    network: Network = logical.network
    requests: dict[str, list[AddressRequest]] = {}
    asking: set[tuple[str, int]] = set()
    found: dict[str, ipaddress.IPv4Network] = {}
    for bridge in network.bridges:
        if bridge.subnet is not None:
            found[home[bridge.name]] = ipaddress.IPv4Network(bridge.subnet)
    for guest in logical.guests:
        for index, attachment in enumerate(guest.attachments):
            name = home[attachment.segment]
            nic = state.testbed_guests[guest.name].interfaces[index]
            ip = nic.ip if nic.ip != DYNAMIC else None
            if ip is not None and not guest.is_golden_image:
                found[name] = ipaddress.IPv4Network((ip, nic.prefix_length), strict=False)
            if ip is None and name != external:
                asking.add((guest.name, index))
            path = (*guest.interfaces_path, index)
            request = AddressRequest(guest.name, index, name, None, ip, path, guest.identity)
            requests.setdefault(name, []).append(request)
    if external is not None:
        found[external] = ipaddress.IPv4Network(state.network.libvirt_network_subnet)
    written = {name: WrittenSubnet(subnet, ("network", "bridges")) for name, subnet in found.items()}
    wanted = [each for name in dict.fromkeys(name for name in requests) for each in requests[name]]
    assigned, _ = assign(logical.project, wanted, external or "", written)
    static = {key: assigned.ips[key] for key in asking}
    return {name: assigned.subnets[name].network for name in requests}, static


def _way_out(
    logical: LogicalTestbed, state: State, inside: str, switches: dict[str, Any]
) -> dict[str, Any] | Complaint:
    """Add the switch that leads outside, and return the router; a complaint where no way is known."""
    main = logical.main_host
    mappings = sorted(main.chassis.bridge_mappings, key=lambda each: each[0] != _PUBLIC)
    if not mappings:
        return _warning(
            ("network", "external_bridge"),
            f"guests lose their way outside: the main host {main.name!r} has no provider network",
            "add one to 'ovn.bridge_mappings' of the host, and convert again",
        )
    physical, _, address = mappings[0]
    host = ipaddress.ip_interface(address)
    near = next((name for name, each in switches.items() if _overlap(each["subnet"], host)), None)
    if near is not None:
        return _warning(
            ("network", "external_bridge"),
            f"guests lose their way outside: the subnet of {near!r} overlaps {host.network}, that of "
            f"{physical!r} on the main host",
            "give the provider network another subnet in 'ovn.bridge_mappings', and convert again",
        )
    outside = next(name for name in _numbered(_PUBLIC) if name not in switches)
    port = f"{outside}-uplink" if f"{outside}-uplink" != outside else outside
    switches[outside] = {
        "subnet": str(host.network),
        "ports": [{"name": port, "localnet": {"network_name": physical}}],
    }
    network: NetworkState = state.network
    own = _own_address(logical.project, host)
    macs = _macs(logical.project, state)
    length = ipaddress.ip_network(network.libvirt_network_subnet).prefixlen
    is_main = host_of(MAIN_NAMES[0], logical.hosts) == main
    return {
        "ports": [
            {
                "name": f"{_ROUTER}-inside",
                "mac": next(macs),
                "gateway_ip": f"{network.libvirt_network_gateway}/{length}",
                "switch": inside,
            },
            {
                "name": f"{_ROUTER}-outside",
                "mac": next(macs),
                "gateway_ip": f"{own}/{host.network.prefixlen}",
                "switch": outside,
                "set_gateway_chassis": MAIN_NAMES[0] if is_main else main.name,
            },
        ],
        "static_routes": [
            {"prefix": "0.0.0.0/0" if host.version == 4 else "::/0", "nexthop": str(host.ip)}  # noqa: PLR2004
        ],
        "nat": [{"nat_type": "snat", "external_ip": own, "logical_ip": network.libvirt_network_subnet}],
        "dhcp": [{"switch": inside}],
    }


def _overlap(subnet: str, host: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> bool:
    network = ipaddress.ip_network(subnet)
    return network.version == host.version and network.overlaps(host.network)


def _own_address(project: str, host: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> str:
    """Return the router's address beside that of the host: projects on one host have different ones."""
    room = host.network.num_addresses - _KEPT
    start = stable_number("outside", project) % room
    offsets = ((start + each) % room + 2 for each in count())
    return next(str(host.network[each]) for each in offsets if host.network[each] != host.ip)


def _macs(project: str, state: State) -> Iterator[str]:
    taken = {nic.mac for guest in state.testbed_guests.values() for nic in guest.interfaces}
    for index in count():
        attempts = (derived_mac(project, f"router {_ROUTER}", index, attempt) for attempt in count())
        yield next(each for each in attempts if each not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))
