"""The types of OVN's dialect: the network as written, and the network section of the state."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

import msgspec

from kvmcompose.core.chassis import Remotes
from kvmcompose.networks._management import PortState

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Path = tuple[str | int, ...]
DYNAMIC = "dynamic"
IPV6 = 6


class Range(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Addresses or MAC addresses from the first to the last, both included."""

    first: str
    last: str


# As written


class SwitchNic(msgspec.Struct, frozen=True):
    """What the YAML says of a guest's interface beside switch and MAC address; ``ips`` of each family.

    ``at`` is its place in the machine; for clones, below the key of the machine's type.
    """

    at: Path
    ips: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    network_name: str | None = None


class ScaledSwitchNic(msgspec.Struct, frozen=True):
    """What the YAML says of the interfaces of clones on a switch: the ranges of their addresses.

    ``ips`` has one range for each family; ``macs`` and it are None or empty where addresses are derived.
    """

    is_dynamic: bool
    ips: tuple[Range, ...]
    macs: Range | None


class Internal(msgspec.Struct, frozen=True):
    """An interface of a host on a logical switch."""

    ip: tuple[str, ...]
    mac: str
    network_name: str | None = None


class SwitchPort(msgspec.Struct, frozen=True):
    """A port of a logical switch that no guest has: ``internal``, or a provider network (``localnet``)."""

    name: str
    chassis: str | None = None
    internal: Internal | None = None
    localnet: str | None = None


class Switch(msgspec.Struct, frozen=True):
    """A logical switch, with a subnet of each family that it has."""

    name: str
    subnets: tuple[str, ...]
    ports: tuple[SwitchPort, ...] = ()


class RouterPort(msgspec.Struct, frozen=True):
    """A port of a logical router, and the switch that it is linked to."""

    name: str
    mac: str
    gateway_ip: tuple[str, ...]
    switch: str
    set_gateway_chassis: str | None = None


class StaticRoute(msgspec.Struct, frozen=True):
    """A route of a logical router."""

    prefix: str
    nexthop: str


class Nat(msgspec.Struct, frozen=True):
    """A rule of a logical router that translates addresses."""

    nat_type: Literal["snat", "dnat_and_snat"]
    external_ip: str
    logical_ip: str


class Dhcp(msgspec.Struct, frozen=True):
    """DHCP on a switch that the router is linked to."""

    switch: str
    exclude_ips: Range | None = None


class Router(msgspec.Struct, frozen=True):
    """A logical router."""

    name: str
    ports: tuple[RouterPort, ...] = ()
    static_routes: tuple[StaticRoute, ...] = ()
    nat: tuple[Nat, ...] = ()
    dhcp: tuple[Dhcp, ...] = ()


class Rule(msgspec.Struct, frozen=True):
    """An entry of an access control list. ``match`` is an expression of ovn-sb(5), "Logical_Flow TABLE"."""

    direction: Literal["to-lport", "from-lport"]
    priority: int
    match: str
    action: str


class Acl(msgspec.Struct, frozen=True):
    """The access control lists of the switches. With ``apply_deny_all`` what no rule allows is dropped."""

    apply_deny_all: bool = False
    switches: dict[str, tuple[Rule, ...]] = {}


class OvnNetwork(msgspec.Struct, frozen=True):
    """The network section as written."""

    switches: dict[str, Switch]
    routers: dict[str, Router]
    acl: Acl


# In the state


class SwitchState(msgspec.Struct, frozen=True):
    """A logical switch. ``name`` is that in OVN."""

    name: str
    subnet: tuple[str, ...]


class SwitchPortState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A port of a logical switch that is not a guest's.

    With ``provider_network_name`` it is the port of that network, otherwise an interface of a host, which
    ``ovs_ports`` describes.
    """

    name: str
    parent_switch: str
    provider_network_name: str | None = None
    ip: tuple[str, ...] = ()
    mac_address: str | None = None


class OvsPortState(msgspec.Struct, frozen=True):
    """An interface of a host on a logical switch: ``name`` on the host, ``lsp_name`` in OVN.

    ``ip`` has prefix lengths. ``mtu`` is in bytes.
    """

    name: str
    integration_bridge_name: str
    lsp_name: str
    testbed_host: str
    mac_address: str
    ip: tuple[str, ...]
    mtu: int


class RouterState(msgspec.Struct, frozen=True):
    """A logical router. ``name`` is that in OVN."""

    name: str
    routing: tuple[StaticRoute, ...]
    nat: tuple[Nat, ...]


class RouterPortState(msgspec.Struct, frozen=True):
    """A port of a logical router. ``name`` and ``lsp_name`` are those of its two ends in OVN.

    ``chassis_name`` is OVN's name of the host that carries the traffic to other networks, if one does.
    """

    name: str
    lsp_name: str
    parent_router: str
    switch: str
    mac_address: str
    ip: tuple[str, ...]
    chassis_name: str | None


class DhcpState(msgspec.Struct, frozen=True):
    """DHCP for the guests of a switch, in one of its subnets (``cidr``). ``router`` is a router's address."""

    switch: str
    cidr: str
    router: str
    server_mac: str


class OvnState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The network section of the state, by the names of the YAML. ``chassis`` has OVN's name of each host.

    The ``libvirt_network`` exists where there are golden images: they are set up in it. ``management_ports``
    have the name of a switch as that of their bridge, and the same interface on each host.
    """

    dialect: str
    mtu: int
    chassis: dict[str, str]
    switches: dict[str, SwitchState]
    switch_ports: dict[str, SwitchPortState]
    ovs_ports: dict[str, OvsPortState]
    routers: dict[str, RouterState]
    router_ports: dict[str, RouterPortState]
    dhcp_options: tuple[DhcpState, ...]
    acl: Acl
    remotes: Remotes | None
    libvirt_network_name: str | None
    libvirt_network_bridge_name: str | None
    libvirt_network_subnet: str | None
    libvirt_network_gateway: str | None
    management_ports: tuple[PortState, ...] = ()


def by_family(subnets: Iterable[str]) -> dict[int, Subnet]:
    """Return valid subnets by the version of IP; IPv4 comes first."""
    found = (ipaddress.ip_network(each) for each in subnets)
    return {each.version: each for each in sorted(found, key=lambda each: each.version)}
