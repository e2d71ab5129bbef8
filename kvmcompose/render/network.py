"""libvirt network XML (format: libvirt's "Network XML format" and its RelaxNG schema network.rng)."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.state import GuestState, State

#: libvirt refuses a DHCP range of more addresses (virNetworkDHCPRange, VIR_SOCKET_ADDR_RANGE limit 65535).
_LARGEST_RANGE = 65000


class Reservation(msgspec.Struct, frozen=True):
    """An address handed to one interface, and the names it answers to."""

    mac: str
    ip: str
    name: str
    alias: str


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


def network_xml(state: State, network: Any) -> Artefact:
    """The NAT network of a project, with a reservation for every guest on it whose address is known."""
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
            for reservation in _reservations(guest, network.libvirt_network_gateway)
        ),
    )
    return Artefact(
        task="network-xml",
        path=f"artefacts/{state.project_name}-network.xml",
        policy=Policy.TEXT,
        content=Rendered("xml", values, templates=("network.xml.j2",)),
        summary=f"libvirt network {network.libvirt_network_name}",
    )


def _reservations(guest: GuestState, gateway: str) -> list[Reservation]:
    """At most one: libvirt wants names to be unique, and the first interface is the one with the route."""
    return [
        Reservation(nic.mac, nic.ip, guest.hostname, guest.name)
        for nic in guest.interfaces
        if nic.gateway == gateway and nic.ip != "dynamic"
    ]
