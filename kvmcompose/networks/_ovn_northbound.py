"""The rows of OVN's northbound database (ovn-nb(5)) that a network is made of."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

import msgspec

from kvmcompose.core.northbound import Row, RowRef, Value
from kvmcompose.core.state import State
from kvmcompose.networks import _ovn_management
from kvmcompose.networks._addresses import resolver_mac
from kvmcompose.networks._connected import DisjointSets
from kvmcompose.networks._ovn_deny import deny_all
from kvmcompose.networks._ovn_match import without_quotes
from kvmcompose.networks._ovn_model import (
    IPV6,
    OvnState,
    RouterPortState,
    Rule,
)
from kvmcompose.networks._ovn_ports import (
    guest_port,
    logical_interfaces,
    port_names,
    readable_name,
    resolvers,
)
from kvmcompose.networks._ovn_refs import (
    dhcp_ref,
    management_rule_ref,
    nat_ref,
    route_ref,
    router_port_ref,
    router_ref,
    rule_ref,
    switch_ref,
)

#: As in TestbedOS, in seconds.
_LEASE_TIME = "3600"
#: Resolvers for names that are no guest's: OVN answers for guests, whichever address is asked.
RESOLVERS = {4: "1.1.1.1", IPV6: "2606:4700:4700::1111"}
_STRING = re.compile(r'"([^"]*)"')


def northbound(state: State, *, management: bool = True) -> tuple[Row, ...]:
    """Return the rows of a testbed's network. ``state.network`` may be plain data, as read back.

    Without ``management`` those of management ports are left out, which change nothing between guests.
    """
    network = msgspec.convert(state.network, OvnState, from_attributes=True)
    if not management:
        network = msgspec.structs.replace(network, management_ports=())
    return tuple(_Rows(state, network))


class _Rows:
    """Makes the rows; an iterable of them."""

    def __init__(self, state: State, network: OvnState) -> None:
        self._state = state
        self._network = network
        self._names = port_names(state, network)
        self._dhcp = {(each.switch, ":" in each.cidr): each for each in network.dhcp_options}

    def __iter__(self) -> Iterator[Row]:
        """Yield all rows; a parent comes before the rows that it holds."""
        records = self._records()
        yield from self._switches(records)
        yield from self._routers()
        yield from self._dhcp_options()
        yield from self._switch_ports()
        yield from self._router_ports()
        yield from self._guest_ports()
        yield from self._management_ports()
        yield from self._resolver_ports()
        yield from self._acls()
        for switch, names in records.items():
            columns: dict[str, Value] = {"records": names}
            yield Row(ref=RowRef("DNS", switch), columns=columns)

    def _switches(self, records: Mapping[str, Mapping[str, str]]) -> Iterator[Row]:
        home = self._connected()
        for name, switch in self._network.switches.items():
            known = tuple(RowRef("DNS", each) for each in records if home.find(each) == home.find(name))
            columns: dict[str, Value] = {"name": switch.name}
            if known:
                columns["dns_records"] = known
            yield Row(ref=switch_ref(name), columns=columns)

    def _connected(self) -> DisjointSets:
        """Return the switches in sets that routers connect."""
        sets = DisjointSets(self._network.switches)
        first: dict[str, str] = {}
        for port in self._network.router_ports.values():
            sets.join(first.setdefault(port.parent_router, port.switch), port.switch)
        return sets

    def _records(self) -> dict[str, dict[str, str]]:
        """Return the names of guests by the switch of their first interface, with all their addresses.

        A guest is in one record of those that a switch knows, because OVN answers from any of them.
        """
        home = self._connected()
        addresses: dict[tuple[str, str], list[str]] = {}
        first: dict[tuple[str, str], str] = {}
        for guest, _, nic in logical_interfaces(self._state):
            key = (home.find(nic.bridge), guest.name)
            first.setdefault(key, nic.bridge)
            addresses.setdefault(key, []).extend(nic.addresses)
        project = self._state.project_name
        found: dict[str, dict[str, str]] = {}
        for (place, name), switch in first.items():
            text = " ".join(addresses[place, name])
            if text:
                found.setdefault(switch, {}).update(
                    dict.fromkeys((name, f"{name}.{project}", f"{project}-{name}"), text)
                )
        return {switch: found[switch] for switch in self._network.switches if switch in found}

    def _routers(self) -> Iterator[Row]:
        for name, router in self._network.routers.items():
            parent = router_ref(name)
            yield Row(ref=parent, columns={"name": router.name})
            for route in router.routing:
                yield Row(
                    ref=route_ref(name, route),
                    columns={"ip_prefix": route.prefix, "nexthop": route.nexthop},
                    parent=parent,
                    parent_column="static_routes",
                )
            gateways = [
                port
                for port in self._network.router_ports.items()
                if port[1].parent_router == name and port[1].chassis_name is not None
            ]
            for nat in router.nat:
                columns: dict[str, Value] = {
                    "type": nat.nat_type,
                    "external_ip": nat.external_ip,
                    "logical_ip": nat.logical_ip,
                }
                if len(gateways) > 1:
                    columns["gateway_port"] = router_port_ref(_via(nat.external_ip, gateways))
                yield Row(
                    ref=nat_ref(name, nat),
                    columns=columns,
                    parent=parent,
                    parent_column="nat",
                )

    def _dhcp_options(self) -> Iterator[Row]:
        for dhcp in self._network.dhcp_options:
            search = f'"{self._state.project_name}"'
            if ":" in dhcp.cidr:
                options = {
                    "server_id": dhcp.server_mac,
                    "dns_server": f"{{{RESOLVERS[IPV6]}}}",
                    "domain_search": search,
                }
            else:
                options = {
                    "server_id": dhcp.router,
                    "server_mac": dhcp.server_mac,
                    "lease_time": _LEASE_TIME,
                    "router": dhcp.router,
                    "mtu": str(self._network.mtu),
                    "dns_server": f"{{{RESOLVERS[4]}}}",
                    "domain_name": search,
                }
            yield Row(ref=dhcp_ref(dhcp), columns={"cidr": dhcp.cidr, "options": options})

    def _switch_ports(self) -> Iterator[Row]:
        for name, port in self._network.switch_ports.items():
            columns: dict[str, Value] = {"name": port.name}
            if port.provider_network_name is not None and port.mac_address is None:
                columns |= {
                    "type": "localnet",
                    "addresses": ("unknown",),
                    "options": {"network_name": port.provider_network_name},
                }
            else:
                columns["addresses"] = (" ".join((str(port.mac_address), *port.ip)),)
            yield self._port(RowRef("Logical_Switch_Port", f"port {name}"), port.parent_switch, columns)

    def _router_ports(self) -> Iterator[Row]:
        for name, port in self._network.router_ports.items():
            options = {"router-port": port.name}
            columns: dict[str, Value] = {
                "name": port.lsp_name, "type": "router", "addresses": ("router",), "options": options,
            }  # fmt: skip
            yield self._port(RowRef("Logical_Switch_Port", f"port {name}"), port.switch, columns)
            ref = router_port_ref(name)
            end: dict[str, Value] = {"name": port.name, "mac": port.mac_address, "networks": port.ip}
            if any(":" in each for each in port.ip) and not self._is_outside(port.switch):
                end["ipv6_ra_configs"] = {
                    "address_mode": "dhcpv6_stateful" if (port.switch, True) in self._dhcp else "slaac",
                    "send_periodic": "true",
                    "mtu": str(self._network.mtu),
                    "dnssl": self._state.project_name,
                    "rdnss": RESOLVERS[IPV6],
                }
            if port.chassis_name is not None and self._is_outside(port.switch):
                # senders outside have a larger MTU: OVN replies with the one of tunnels and guests
                end["options"] = {"gateway_mtu": str(self._network.mtu)}
            yield Row(
                ref=ref,
                columns=end,
                parent=router_ref(port.parent_router),
                parent_column="ports",
            )
            if port.chassis_name is not None:
                yield Row(
                    ref=RowRef("Gateway_Chassis", f"{name} {port.chassis_name}"),
                    columns={
                        "name": f"{port.name}-{port.chassis_name}",
                        "chassis_name": port.chassis_name,
                        "priority": 1,
                    },
                    parent=ref,
                    parent_column="gateway_chassis",
                )

    def _is_outside(self, switch: str) -> bool:
        """Return whether a switch has a provider network, where other routers advertise."""
        return any(
            port.parent_switch == switch and port.mac_address is None
            for port in self._network.switch_ports.values()
        )

    def _guest_ports(self) -> Iterator[Row]:
        project = self._state.project_name
        for guest, index, nic in logical_interfaces(self._state):
            ref = guest_port(guest.identity, index)
            columns: dict[str, Value] = {
                "name": str(ref.uuid(project)),
                "addresses": (" ".join((nic.mac, *nic.addresses)),),
                "external_ids": {
                    "kvmcompose-name": readable_name(project, guest, index, nic),
                    "kvmcompose-guest": guest.name,
                },
            }
            if nic.port_security:
                columns["port_security"] = (" ".join((nic.mac, *nic.addresses)),)
            for is_ipv6, column in ((False, "dhcpv4_options"), (True, "dhcpv6_options")):
                served = self._dhcp.get((nic.bridge, is_ipv6))
                if served and any((":" in lease) == is_ipv6 for lease in nic.leases):
                    columns[column] = dhcp_ref(served)
            yield self._port(ref, nic.bridge, columns)

    def _management_ports(self) -> Iterator[Row]:
        project = self._state.project_name
        for port in self._network.management_ports:
            ref = _ovn_management.port_ref(port.bridge)
            columns: dict[str, Value] = {
                "name": str(ref.uuid(project)),
                "type": "localport",
                "addresses": (f"{port.mac} {port.ip}",),
                "external_ids": {"kvmcompose-name": f"{project}-{port.bridge}-management"},
            }
            yield self._port(ref, port.bridge, columns)

    def _resolver_ports(self) -> Iterator[Row]:
        """Yield ports that are on no host: OVN answers ARP for a ``localport`` wherever it is asked."""
        taken = {nic.mac for _, _, nic in logical_interfaces(self._state)}
        taken |= {port.mac_address for port in self._network.router_ports.values()}
        taken |= {port.mac for port in self._network.management_ports}
        taken |= {port.mac_address for port in self._network.switch_ports.values() if port.mac_address}
        for switch, addresses in resolvers(self._state, self._network).items():
            mac = resolver_mac(self._state.project_name, switch, taken)
            taken.add(mac)
            ref = RowRef("Logical_Switch_Port", f"resolver {switch}")
            columns: dict[str, Value] = {
                "name": str(ref.uuid(self._state.project_name)),
                "type": "localport",
                "addresses": (" ".join((mac, *addresses)),),
            }
            yield self._port(ref, switch, columns)

    def _port(self, ref: RowRef, switch: str, columns: dict[str, Value]) -> Row:
        parent = switch_ref(switch)
        return Row(ref=ref, columns=columns, parent=parent, parent_column="ports")

    def _acls(self) -> Iterator[Row]:
        acl = self._network.acl
        managed = {port.bridge: port for port in self._network.management_ports}
        for switch in self._network.switches:
            for rule in acl.switches.get(switch, ()):
                yield self._acl(rule_ref(switch, rule), switch, rule)
            if acl.apply_deny_all:
                for name, rule in deny_all(switch, self._network):
                    yield self._acl(RowRef("ACL", name), switch, rule)
            if switch in managed and (acl.apply_deny_all or acl.switches.get(switch)):
                own = str(_ovn_management.port_ref(switch).uuid(self._state.project_name))
                for rule in _ovn_management.rules(managed[switch], own):
                    yield self._acl(management_rule_ref(switch, rule.direction), switch, rule)

    def _acl(self, ref: RowRef, switch: str, rule: Rule) -> Row:
        names = self._names[switch]
        match = _STRING.sub(lambda found: f'"{names.get(found[1], found[1])}"', without_quotes(rule.match))
        return Row(
            ref=ref,
            columns={
                "direction": rule.direction, "priority": rule.priority, "match": match, "action": rule.action,
            },
            parent=switch_ref(switch),
            parent_column="acls",
        )  # fmt: skip


def _via(external_ip: str, gateways: list[tuple[str, RouterPortState]]) -> str:
    """Return the gateway port that an address belongs to, or the first one."""
    address = ipaddress.ip_address(external_ip)
    near = (
        name
        for name, port in gateways
        if any(address in ipaddress.ip_interface(each).network for each in port.ip)
    )
    return next(near, gateways[0][0])
