"""Check the routers of a network of OVN: ports, routes, translation of addresses, DHCP."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator

from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.ip import ip_network
from kvmcompose.networks._ovn_model import Address, Nat, OvnNetwork, Path, Router, RouterPort, Subnet
from kvmcompose.networks._ovn_owners import Owners, not_an_address, parse_address

Known = Collection[tuple[str, Address]]
"""Addresses that something has, each with its switch."""


def check_router(
    router: Router, network: OvnNetwork, owners: Owners, known: Known, at: Path
) -> Iterator[Complaint]:
    """Yield the problems of a router."""
    yield from _ports(router, network, owners, at)
    yield from _routes(router, owners, known, at)
    yield from _nat(router, owners, at)
    yield from _dhcp(router, network, owners, at)


def _ports(router: Router, network: OvnNetwork, owners: Owners, at: Path) -> Iterator[Complaint]:
    linked: dict[str, str] = {}
    spans: list[tuple[str, Subnet]] = []
    for index, port in enumerate(router.ports):
        path: Path = (*at, "ports", index)
        yield from owners.mac(port.mac, f"the port {port.name!r}", (*path, "mac"))
        if port.switch not in network.switches:
            continue
        other = linked.setdefault(port.switch, port.name)
        if other != port.name:
            yield Complaint(
                code="linked-twice",
                path=(*path, "switch"),
                message=f"the router {router.name!r} is linked to {port.switch!r} already, by {other!r}",
                wanted="one port of a router for a switch",
                hint="a port can have an IPv4 and an IPv6 address: gateway_ip: [10.0.0.1/24, fd00::1/64]",
            )
            continue
        yield from _port_addresses(port, owners, path)
        for subnet in owners.subnets[port.switch].values():
            crossing = next((name for name, each in spans if each.overlaps(subnet)), None)
            if crossing is not None:
                yield Complaint(
                    code="overlapping-subnets",
                    path=(*path, "switch"),
                    message=f"the subnets of {port.switch!r} and {crossing!r} overlap: "
                    f"the router {router.name!r} cannot tell where an address is",
                    wanted="switches with different subnets on a router",
                )
            spans.append((port.switch, subnet))


def _port_addresses(port: RouterPort, owners: Owners, path: Path) -> Iterator[Complaint]:
    subnets = owners.subnets[port.switch]
    for text in port.gateway_ip:
        address, slash, _ = text.partition("/")
        found = list(owners.address(port.switch, address, f"the port {port.name!r}", (*path, "gateway_ip")))
        yield from found
        parsed = parse_address(address)
        if found or parsed is None:
            continue
        wanted = f"{address}/{subnets[parsed.version].prefixlen}"
        if text != wanted:
            yield Complaint(
                code="bad-address",
                path=(*path, "gateway_ip"),
                message=f"{text} has another prefix length than the subnet of {port.switch!r}"
                if slash
                else "the prefix length is missing",
                found=repr(text),
                wanted=wanted,
            )
    if len({":" in text for text in port.gateway_ip}) < len(port.gateway_ip):
        yield Complaint(
            code="bad-address",
            path=(*path, "gateway_ip"),
            message="a port has one address of each family",
            wanted="an IPv4 address, an IPv6 address, or both",
        )


def _own(router: Router) -> set[Address]:
    texts = (text.partition("/")[0] for port in router.ports for text in port.gateway_ip)
    return {address for text in texts if (address := parse_address(text)) is not None}


def _routes(router: Router, owners: Owners, known: Known, at: Path) -> Iterator[Complaint]:
    seen: set[tuple[str, str]] = set()
    for index, route in enumerate(router.static_routes):
        path: Path = (*at, "static_routes", index)
        prefix = yield from _network_of(route.prefix, (*path, "prefix"), "a destination: 0.0.0.0/0")
        hop = parse_address(route.nexthop)
        if hop is None:
            yield not_an_address(route.nexthop, (*path, "nexthop"), "the address of a router")
            continue
        if (route.prefix, route.nexthop) in seen:
            yield Complaint(
                code="duplicate-route",
                path=path,
                message=f"the router {router.name!r} has this route already",
            )
        seen.add((route.prefix, route.nexthop))
        if prefix is not None and prefix.version != hop.version:
            yield Complaint(
                code="bad-address",
                path=(*path, "nexthop"),
                message=f"{hop} and {prefix} belong to different address families",
                wanted=f"an IPv{prefix.version} address",
            )
        yield from _next_hop(router, hop, owners, known, (*path, "nexthop"))


def _next_hop(router: Router, hop: Address, owners: Owners, known: Known, path: Path) -> Iterator[Complaint]:
    if hop in _own(router):
        yield Complaint(
            code="useless-route",
            path=path,
            message=f"{hop} is an address of the router {router.name!r} itself: the route has no effect",
            hint="a router knows the subnets of its switches without routes",
            severity=Severity.WARNING,
        )
        return
    switches = [port.switch for port in router.ports if port.switch in owners.subnets]
    near = [name for name in switches if any(hop in each for each in owners.subnets[name].values())]
    if not near:
        yield Complaint(
            code="unknown-next-hop",
            path=path,
            message=f"the router {router.name!r} has no port in a subnet that contains {hop}: "
            "the route has no effect",
            wanted="an address in the subnet of a switch that the router is linked to",
            severity=Severity.WARNING,
        )
    elif not any((name, hop) in known or name in owners.outside for name in near):
        yield Complaint(
            code="unknown-next-hop",
            path=path,
            message=f"nothing on the switch {near[0]!r} has the address {hop}",
            wanted="the address of another router's port, of a guest, or of a provider network",
        )


def _network_of(text: str, path: Path, wanted: str) -> Generator[Complaint, None, Subnet | None]:
    """Yield the problem of a subnet, and return it; None if it has a problem."""
    try:
        return ip_network(text)
    except ValueError as error:
        yield Complaint(
            code="bad-address",
            path=path,
            message=f"not a network: {error}",
            found=repr(text),
            wanted=wanted,
        )
    return None


def _nat(router: Router, owners: Owners, at: Path) -> Iterator[Complaint]:
    gateways = [
        port
        for port in router.ports
        if port.set_gateway_chassis is not None and port.switch in owners.subnets
    ]
    if router.nat and not gateways:
        yield Complaint(
            code="nat-without-gateway",
            path=(*at, "nat"),
            message=f"no port of the router {router.name!r} has a gateway chassis: no address is translated",
            wanted="'set_gateway_chassis' at the router's port on the switch that leads outside",
            at_key=True,
            severity=Severity.WARNING,
        )
    seen: set[tuple[str, str]] = set()
    for index, nat in enumerate(router.nat):
        path: Path = (*at, "nat", index)
        key = (nat.nat_type, nat.logical_ip if nat.nat_type == "snat" else nat.external_ip)
        if key in seen:
            yield Complaint(
                code="duplicate-nat",
                path=path,
                message=f"the router {router.name!r} translates {key[1]} already",
            )
        seen.add(key)
        yield from _nat_addresses(router, nat, gateways, owners, path)


def _nat_addresses(
    router: Router, nat: Nat, gateways: list[RouterPort], owners: Owners, path: Path
) -> Iterator[Complaint]:
    external = parse_address(nat.external_ip)
    if external is None:
        yield not_an_address(nat.external_ip, (*path, "external_ip"), "an address")
    logical = yield from _network_of(
        nat.logical_ip,
        (*path, "logical_ip"),
        "an address, or a subnet such as 10.0.0.0/16" if nat.nat_type == "snat" else "an address of a guest",
    )
    if external is None or logical is None:
        return
    if logical.version != external.version:
        yield Complaint(
            code="bad-address",
            path=(*path, "logical_ip"),
            message=f"{nat.logical_ip} and {nat.external_ip} belong to different address families",
        )
    if nat.nat_type == "dnat_and_snat" and logical.num_addresses != 1:
        yield Complaint(
            code="bad-address",
            path=(*path, "logical_ip"),
            message="only one address can have an external address of its own",
            found=repr(nat.logical_ip),
            wanted="an address of a guest",
        )
    if external not in _own(router):
        owner = f"the address translation of {router.name!r}"
        for port in gateways:
            if external in owners.subnets[port.switch].get(external.version, ()):
                yield from owners.address(port.switch, str(external), owner, (*path, "external_ip"))
    if gateways and not any(
        external in subnet for port in gateways for subnet in owners.subnets[port.switch].values()
    ):
        yield Complaint(
            code="unreachable-address",
            path=(*path, "external_ip"),
            message=f"{external} is in no subnet of a port with a gateway chassis: "
            "packets reach it only if a router outside sends them here",
            severity=Severity.WARNING,
        )


def _dhcp(router: Router, network: OvnNetwork, owners: Owners, at: Path) -> Iterator[Complaint]:
    for index, dhcp in enumerate(router.dhcp):
        path: Path = (*at, "dhcp", index)
        if dhcp.switch not in network.switches:
            yield Complaint(
                code="unknown-switch",
                path=(*path, "switch"),
                message=f"there is no switch {dhcp.switch!r}",
                wanted="a switch of network.ovn.switches",
            )
            continue
        if all(port.switch != dhcp.switch for port in router.ports):
            yield Complaint(
                code="unknown-switch",
                path=(*path, "switch"),
                message=f"the router {router.name!r} has no port on the switch {dhcp.switch!r}",
                wanted="a switch that the router is linked to",
            )
        others = [
            (other.name, number)
            for other in network.routers.values()
            for number, each in enumerate(other.dhcp)
            if each.switch == dhcp.switch
        ]
        if others[0] != (router.name, index):
            yield Complaint(
                code="duplicate-dhcp",
                path=(*path, "switch"),
                message=f"the switch {dhcp.switch!r} has DHCP already "
                f"(routers.{others[0][0]}.dhcp[{others[0][1]}])",
            )
        if dhcp.exclude_ips is not None:
            ends = []
            for key, text in (("from", dhcp.exclude_ips.first), ("to", dhcp.exclude_ips.last)):
                address = parse_address(text)
                subnets = owners.subnets[dhcp.switch]
                if address is None or address not in subnets.get(address.version, ()):
                    wanted = " or ".join(str(each) for each in subnets.values())
                    yield Complaint(
                        code="address-outside-subnet" if address else "bad-address",
                        path=(*path, "exclude_ips", key),
                        message=f"{text!r} is not an address of the switch {dhcp.switch!r}",
                        wanted=f"an address in {wanted}",
                    )
                else:
                    ends.append(address)
            if len(ends) == 2 and (ends[0].version, int(ends[0])) > (ends[1].version, int(ends[1])):  # noqa: PLR2004
                yield Complaint(
                    code="bad-range",
                    path=(*path, "exclude_ips"),
                    message=f"the range ends at {ends[1]} before it begins at {ends[0]}",
                    wanted="'from' not above 'to'",
                )
