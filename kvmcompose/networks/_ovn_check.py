"""Check a network of OVN as written: what no schema can express, and OVN would not say or only log."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.model import Host, Machine
from kvmcompose.networks._nics import check_nics
from kvmcompose.networks._ovn_chassis import MAIN_NAMES, bridge_addresses, check_chassis, host_of, mtu
from kvmcompose.networks._ovn_check_acl import check_acl
from kvmcompose.networks._ovn_check_guests import check_guests, known_addresses
from kvmcompose.networks._ovn_check_routers import check_router
from kvmcompose.networks._ovn_model import OvnNetwork, Path, Switch, SwitchPort
from kvmcompose.networks._ovn_names import check_switch
from kvmcompose.networks._ovn_owners import Owners, check_subnet

#: The path of the section.
AT: Path = ("network", "ovn")


def check(network: OvnNetwork, machines: Sequence[Machine], hosts: Sequence[Host]) -> Iterator[Complaint]:
    """Yield the problems of the network and of the interfaces attached to it."""
    found = list(_subnets(network))
    if found:  # all other checks are about addresses in them
        yield from found
        return
    yield from check_chassis(hosts)
    owners = Owners(network)
    yield from _port_names(network)
    for switch in network.switches.values():
        yield from _switch_ports(switch, owners, hosts)
    for router in network.routers.values():
        for index, port in enumerate(router.ports):
            path = (*AT, "routers", router.name, "ports", index)
            yield from check_switch(port.switch, network.switches, (*path, "switch"))
            if port.set_gateway_chassis is not None:
                yield from _chassis(port.set_gateway_chassis, hosts, (*path, "set_gateway_chassis"))
    yield from _gateways(network, hosts)
    known = known_addresses(network, machines)
    for router in network.routers.values():
        yield from check_router(router, network, owners, known, (*AT, "routers", router.name))
    yield from check_guests(network, machines, owners, known)
    yield from check_nics(machines, hosts, mtu(hosts))
    yield from check_acl(network, machines, (*AT, "acl"))


def _subnets(network: OvnNetwork) -> Iterator[Complaint]:
    for name, switch in network.switches.items():
        at: Path = (*AT, "switches", name, "subnet")
        found = [complaint for text in switch.subnets for complaint in check_subnet(text, at)]
        yield from found
        if not found and len({ipaddress.ip_network(text).version for text in switch.subnets}) < len(
            switch.subnets
        ):
            yield Complaint(
                code="two-subnets",
                path=at,
                message=f"the switch {name!r} has two subnets of one family: {' and '.join(switch.subnets)}",
                wanted="one IPv4 subnet, one IPv6 subnet, or both",
            )


def _port_names(network: OvnNetwork) -> Iterator[Complaint]:
    first: dict[str, str] = {}
    every = [("switches", name, switch.ports) for name, switch in network.switches.items()]
    every += [("routers", name, router.ports) for name, router in network.routers.items()]  # type: ignore[misc]
    for kind, owner, ports in every:
        for index, port in enumerate(ports):
            place = f"{kind}.{owner}.ports[{index}]"
            other = first.setdefault(port.name, place)
            if other != place:
                yield Complaint(
                    code="duplicate-name",
                    path=(*AT, kind, owner, "ports", index, "name"),
                    message=f"{port.name!r} is already the name of a port ({other})",
                )


def _switch_ports(switch: Switch, owners: Owners, hosts: Sequence[Host]) -> Iterator[Complaint]:
    owners.of_hosts(switch.name, bridge_addresses(switch, hosts))
    localnet: str | None = None
    for index, port in enumerate(switch.ports):
        at: Path = (*AT, "switches", switch.name, "ports", index)
        if port.chassis is not None:
            yield from _chassis(port.chassis, hosts, (*at, "chassis"))
        if port.localnet is not None:
            yield from _localnet(port, hosts, at, localnet)
            localnet = localnet or port.name
        if port.internal is not None:
            owner = f"the port {port.name!r}"
            yield from owners.mac(port.internal.mac, owner, (*at, "internal", "mac"))
            for text in port.internal.ip:
                yield from owners.address(switch.name, text, owner, (*at, "internal", "ip"))
            network_name = port.internal.network_name
            yield from check_network_name(network_name, switch, (*at, "internal", "network_name"))


def _localnet(port: SwitchPort, hosts: Sequence[Host], at: Path, other: str | None) -> Iterator[Complaint]:
    if other is not None:
        yield Complaint(
            code="too-many",
            path=at,
            message=f"the switch has a provider network already, at the port {other!r}",
            wanted="one port with 'localnet' on a switch",
        )
    if port.chassis is not None:
        yield Complaint(
            code="ignored-key",
            path=(*at, "chassis"),
            message="a provider network is on all hosts that have it in 'bridge_mappings'",
            at_key=True,
            severity=Severity.WARNING,
        )
    mapped = sorted({name for host in hosts for name, _, _ in host.chassis.bridge_mappings})
    if port.localnet not in mapped:
        yield Complaint(
            code="unknown-network",
            path=(*at, "localnet", "network_name"),
            message=f"no testbed host has a provider network {port.localnet!r}",
            wanted=f"one of: {', '.join(mapped)}" if mapped else "a network of 'bridge_mappings'",
            hint="add it to 'ovn.bridge_mappings' of a host in kvm-compose-config.json",
        )


def check_network_name(name: str | None, switch: Switch, path: Path) -> Iterator[Complaint]:
    """Yield the problem of a provider network to which a switch has no port."""
    known = [port.localnet for port in switch.ports if port.localnet is not None]
    if name is not None and name not in known:
        yield Complaint(
            code="unknown-network",
            path=path,
            message=f"the switch {switch.name!r} has no port with the provider network {name!r}",
            wanted=f"one of: {', '.join(known)}" if known else "no network_name",
        )


def _chassis(name: str, hosts: Sequence[Host], path: Path) -> Iterator[Complaint]:
    if host_of(name, hosts) is None:
        names = sorted({each for host in hosts for each in (host.name, host.chassis_name)})
        yield Complaint(
            code="unknown-host",
            path=path,
            message=f"there is no testbed host {name!r}, and none whose chassis_name that is",
            wanted=f"one of: {', '.join(names)}; or {MAIN_NAMES[0]} for the main host",
        )


def _gateways(network: OvnNetwork, hosts: Sequence[Host]) -> Iterator[Complaint]:
    """Check that the host of a gateway has the provider network of its switch."""
    for name, router in network.routers.items():
        for index, port in enumerate(router.ports):
            host = host_of(port.set_gateway_chassis, hosts) if port.set_gateway_chassis else None
            switch = network.switches.get(port.switch)
            if host is None or switch is None:
                continue
            mapped = {each for each, _, _ in host.chassis.bridge_mappings}
            for switch_port in switch.ports:
                if switch_port.localnet is not None and switch_port.localnet not in mapped:
                    yield Complaint(
                        code="unknown-network",
                        path=(*AT, "routers", name, "ports", index, "set_gateway_chassis"),
                        message=f"the host {host.name!r} has no provider network {switch_port.localnet!r}, "
                        f"to which the switch {switch.name!r} is connected",
                        hint="name a host that has it in 'ovn.bridge_mappings'",
                    )
