"""Draw a network of OVN: switches, routers, provider networks, interfaces of hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from kvmcompose.core.model import LogicalTestbed
from kvmcompose.core.state import State
from kvmcompose.drawing.graph import Drawing, Edge, Node, distinct
from kvmcompose.networks._ovn_chassis import host_of
from kvmcompose.networks._ovn_model import OvnNetwork, OvnState, Router, RouterPort
from kvmcompose.networks._ovn_stored import written

#: How many lines say what a router does; others are counted.
_MOST_LINES = 6


def drawing(state: State) -> Drawing:
    """Return the network. A router is on its gateway chassis if all its ports have the same one."""
    stored = msgspec.convert(state.network, OvnState, from_attributes=True)
    network = written(stored)
    names = distinct(_elements(network), state.testbed_guests)
    chassis = {name: host for host, name in stored.chassis.items()}
    return Drawing(
        nodes=tuple(_nodes(network, chassis, names)),
        edges=tuple(_edges(network, chassis, names)),
        segments={name: names["switch", name] for name in network.switches},
    )


def gateways(logical: LogicalTestbed) -> dict[str, str]:
    """Return the host of each router port with a gateway chassis."""
    network: OvnNetwork = logical.network
    ports = (port for router in network.routers.values() for port in router.ports)
    found = ((port.name, port.set_gateway_chassis) for port in ports)
    hosts = {name: host_of(given, logical.hosts) for name, given in found if given}
    return {name: host.name for name, host in hosts.items() if host is not None}


def _elements(network: OvnNetwork) -> Iterator[tuple[str, str]]:
    yield from (("switch", name) for name in network.switches)
    yield from (("router", name) for name in network.routers)
    ports = [port for switch in network.switches.values() for port in switch.ports]
    yield from (("host interface", port.name) for port in ports if port.internal is not None)
    yield from dict.fromkeys(("network", port.localnet) for port in ports if port.localnet is not None)


def _nodes(
    network: OvnNetwork, chassis: Mapping[str, str], names: Mapping[tuple[str, str], str]
) -> Iterator[Node]:
    for (kind, name), shown in names.items():
        if kind == "switch":
            yield Node(shown, kind, details=(*network.switches[name].subnets, *_rules(network, name)))
        elif kind == "router":
            router = network.routers[name]
            on = {host for port in router.ports if (host := _gateway(port, chassis))}
            yield Node(shown, kind, on.pop() if len(on) == 1 else "", _translates(router))
        elif kind == "network":
            yield Node(shown, kind)
    for switch in network.switches.values():
        for port in switch.ports:
            if port.internal is not None:
                yield Node(names["host interface", port.name], "host interface", port.chassis or "")


def _gateway(port: RouterPort, chassis: Mapping[str, str]) -> str | None:
    """Return the host that carries a port's traffic to other networks."""
    return chassis.get(port.set_gateway_chassis or "")


def _rules(network: OvnNetwork, switch: str) -> Iterator[str]:
    count = len(network.acl.switches.get(switch, ()))
    if count:
        yield f"{count} rule{'' if count == 1 else 's'}"
    if network.acl.apply_deny_all:
        yield "the rest is denied" if count else "everything is denied"


def _translates(router: Router) -> tuple[str, ...]:
    lines = [f"{nat.nat_type} {nat.logical_ip}: {nat.external_ip}" for nat in router.nat]
    lines += [f"{route.prefix} via {route.nexthop}" for route in router.static_routes]
    lines += [f"DHCP on {dhcp.switch}" for dhcp in router.dhcp]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES - 1 :] = [f"and {len(lines) - _MOST_LINES + 1} more"]
    return tuple(lines)


def _edges(
    network: OvnNetwork, chassis: Mapping[str, str], names: Mapping[tuple[str, str], str]
) -> Iterator[Edge]:
    for name, router in network.routers.items():
        for port in router.ports:
            host = _gateway(port, chassis)
            label = ", ".join((*port.gateway_ip, *((f"gateway on {host}",) if host else ())))
            yield Edge(names["router", name], names["switch", port.switch], label)
    for name, switch in network.switches.items():
        for each in switch.ports:
            if each.internal is not None:
                addresses = ", ".join(each.internal.ip)
                yield Edge(names["host interface", each.name], names["switch", name], addresses)
            elif each.localnet is not None:
                yield Edge(names["switch", name], names["network", each.localnet])
