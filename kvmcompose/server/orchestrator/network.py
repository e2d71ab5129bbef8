"""Subnets and addresses that a testbed's network may use on its hosts."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Iterable

from kvmcompose.core.deployable import LibvirtNetwork, TunnelPort
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: RFC 1918, and what RFC 6598, RFC 2544 and RFC 5737 set apart: nobody out there is reached by these.
_FOR_GUESTS = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
    )
)  # fmt: skip


async def check_subnet(host: HostDrivers, network: LibvirtNetwork) -> None:
    """What the host sends to the subnet goes to guests: for a member it takes nobody's place.

    Raises DriverError.
    """
    subnet = ipaddress.IPv4Network(network.subnet)
    hint = another_subnet(network)
    if not any(subnet.subnet_of(each) for each in _FOR_GUESTS):
        raise DriverError(
            f"{subnet} is not a private subnet, and only an administrator's testbed may use another",
            hint=hint,
        )
    for each in await host.links.attached():
        if each.interface != network.bridge and subnet.overlaps(each.subnet):
            raise DriverError(
                f"the subnet {subnet} overlaps {each.subnet}, which is reached by {each.interface}",
                hint=hint,
            )


def guests_on(testbed: LoadedTestbed, host: str, bridges: Collection[str]) -> list[str]:
    """Return the guests of a host that are connected to bridges, by the names of these on the host."""
    return [
        guest.name
        for guest in testbed.runnable
        if guest.state.testbed_host == host and any(nic.source in bridges for nic in guest.state.interfaces)
    ]


async def addresses_of(tunnels: Iterable[TunnelPort]) -> dict[str, str]:
    """Return the addresses of the remote ends that are given by name, each with its name.

    Raises DriverError.
    """
    names = dict.fromkeys(tunnel.remote_ip for tunnel in tunnels)
    found = {name: await _address(name) for name in names}
    return {address: name for name, address in found.items() if address != name}


def another_subnet(network: LibvirtNetwork) -> str:
    """How to give the guests of the external bridge another subnet, as the end of a hint."""
    if network.subnet_is_derived:
        return "rename this project (--project-name): its subnet is derived from its name"
    return "give the guests on the external bridge an `ip` in another subnet, or none: theirs decides it"


async def _address(host: str) -> str:
    """The IPv4 address of a host that may be given by name: Open vSwitch takes none. Raises DriverError."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
    except OSError as error:
        raise DriverError(
            f"there is no address for the host {host}: {error.strerror}",
            hint="give its address in kvm-compose-config.json (ip): tunnels need it",
        ) from error
    return str(found[0][4][0])
