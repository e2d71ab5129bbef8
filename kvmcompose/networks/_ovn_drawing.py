"""Draw a network of OVN: switches, routers, provider networks, interfaces of hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvmcompose.core.model import Host, LogicalTestbed, PlacedTestbed
from kvmcompose.drawing.graph import Drawing, Edge, Node, distinct
from kvmcompose.networks._ovn_chassis import host_of
from kvmcompose.networks._ovn_model import OvnNetwork, Router, RouterPort

#: How many lines say what a router does; others are counted.
_MOST_LINES = 6


def drawing(placed: PlacedTestbed) -> Drawing:
    """Return the network. A router is on its gateway chassis if all its ports have the same one."""
    logical = placed.logical
    network: OvnNetwork = logical.network
    names = distinct(_elements(network), logical)
    return Drawing(
        nodes=tuple(_nodes(network, logical.hosts, names)),
        edges=tuple(_edges(network, logical.hosts, names)),
        segments={name: names["switch", name] for name in network.switches},
    )


def gateways(logical: LogicalTestbed) -> dict[str, str]:
    """Return the host of each router port with a gateway chassis."""
    network: OvnNetwork = logical.network
    ports = (port for router in network.routers.values() for port in router.ports)
    return {port.name: host for port in ports if (host := _gateway(port, logical.hosts)) is not None}


def _gateway(port: RouterPort, hosts: Sequence[Host]) -> str | None:
    """Return the name of the host that carries a port's traffic to other networks."""
    host = host_of(port.set_gateway_chassis, hosts) if port.set_gateway_chassis else None
    return host.name if host is not None else None


def _elements(network: OvnNetwork) -> Iterator[tuple[str, str]]:
    yield from (("switch", name) for name in network.switches)
    yield from (("router", name) for name in network.routers)
    ports = [port for switch in network.switches.values() for port in switch.ports]
    yield from (("host interface", port.name) for port in ports if port.internal is not None)
    yield from dict.fromkeys(("network", port.localnet) for port in ports if port.localnet is not None)


def _nodes(network: OvnNetwork, hosts: Sequence[Host], names: dict[tuple[str, str], str]) -> Iterator[Node]:
    main = next(host.name for host in hosts if host.is_main_host)
    for (kind, name), shown in names.items():
        if kind == "switch":
            yield Node(shown, kind, details=(*network.switches[name].subnets, *_rules(network, name)))
        elif kind == "router":
            router = network.routers[name]
            on = {_gateway(port, hosts) for port in router.ports} - {None}
            yield Node(shown, kind, on.pop() or "" if len(on) == 1 else "", _translates(router))
        elif kind == "network":
            yield Node(shown, kind)
    for switch in network.switches.values():
        for port in switch.ports:
            if port.internal is not None:
                host = host_of(port.chassis, hosts) if port.chassis else None
                group = host.name if host is not None else main
                yield Node(names["host interface", port.name], "host interface", group)


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


def _edges(network: OvnNetwork, hosts: Sequence[Host], names: dict[tuple[str, str], str]) -> Iterator[Edge]:
    for name, router in network.routers.items():
        for port in router.ports:
            host = _gateway(port, hosts)
            label = ", ".join((*port.gateway_ip, *((f"gateway on {host}",) if host else ())))
            yield Edge(names["router", name], names["switch", port.switch], label)
    for name, switch in network.switches.items():
        for each in switch.ports:
            if each.internal is not None:
                addresses = ", ".join(each.internal.ip)
                yield Edge(names["host interface", each.name], names["switch", name], addresses)
            elif each.localnet is not None:
                yield Edge(names["switch", name], names["network", each.localnet])
