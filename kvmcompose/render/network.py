"""libvirt network XML (format: libvirt's "Network XML format" and its RelaxNG schema network.rng)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.state import GuestState, State

#: libvirt refuses a DHCP range of more addresses (virNetworkDHCPRange, VIR_SOCKET_ADDR_RANGE limit 65535).
_LARGEST_RANGE = 65000


class Reservation(msgspec.Struct, frozen=True):
    """An address handed to one interface, and the names it answers to, if any."""

    mac: str
    ip: str
    name: str | None
    alias: str | None


class NetworkValues(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the template sees."""

    project: str
    name: str
    bridge: str
    uplink: str | None
    gateway: str
    prefix_length: int
    first: str
    last: str
    reservations: tuple[Reservation, ...]


def network_xml(state: State, network: Any, served: Collection[str]) -> Artefact:
    """The NAT network of a project, with a reservation for every address on it that is known.

    ``served`` are the bridges that are joined to it, so that its DHCP server is heard there.
    """
    subnet = ipaddress.IPv4Network(network.libvirt_network_subnet)
    last = min(int(subnet.broadcast_address) - 1, int(subnet.network_address) + 1 + _LARGEST_RANGE)
    main = next(host for host in state.testbed_hosts.values() if host.is_main_host)
    values = NetworkValues(
        project=state.project_name,
        name=network.libvirt_network_name,
        bridge=network.libvirt_network_bridge_name,
        uplink=main.main_interface,
        gateway=network.libvirt_network_gateway,
        prefix_length=subnet.prefixlen,
        first=str(subnet[2]),
        last=str(ipaddress.IPv4Address(last)),
        reservations=tuple(
            reservation
            for guest in state.testbed_guests.values()
            for reservation in _reservations(guest, network, served)
        ),
    )
    return Artefact(
        task="network-xml",
        path=f"artefacts/{state.project_name}-network.xml",
        policy=Policy.TEXT,
        content=Rendered("xml", values, templates=("network.xml.j2",)),
        summary=f"libvirt network {network.libvirt_network_name}",
    )


def _reservations(guest: GuestState, network: Any, served: Collection[str]) -> Iterator[Reservation]:
    """Only the first interface, the one with the route, has names: libvirt wants them to be unique.

    The others' addresses are reserved too, or a guest with a dynamic address might be given one of them.
    """
    for nic in guest.interfaces:
        if nic.ip == "dynamic" or not (nic.bridge in served or nic.attach == "network"):
            continue
        if nic.gateway == network.libvirt_network_gateway:
            yield Reservation(nic.mac, nic.ip, guest.hostname, guest.name)
        else:
            yield Reservation(nic.mac, nic.ip, None, None)
