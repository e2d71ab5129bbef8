"""The logical network that rows describe: its ports, and the owner of each address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.northbound import Row, RowRef

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class GuestNic(msgspec.Struct, frozen=True):
    """An interface of a guest. ``port`` is its logical port; addresses have the length of their prefix.

    One that is not ``up`` has no carrier.
    """

    guest: str
    port: str
    mac: str
    addresses: tuple[Interface, ...]
    gateways: tuple[Address, ...]
    up: bool = True

    def has(self, address: Address) -> bool:
        """Return whether it has an address."""
        return any(each.ip == address for each in self.addresses)


class RouterEnd(msgspec.Struct, frozen=True):
    """A port of a router, and the switch and port at its other end."""

    name: str
    router: str
    mac: str
    addresses: tuple[Interface, ...]
    switch: str
    switch_port: str


class Translator(msgspec.Struct, frozen=True):
    """A translation of addresses. ``ref`` is its row."""

    ref: RowRef
    router: str
    is_both: bool
    external: Address
    logical: Network


class LogicalNetwork:
    """The rows by what they are. GuestNames are those that OVN uses."""

    def __init__(self, rows: Sequence[Row]) -> None:
        by_ref = {row.ref: row for row in rows}
        self._names = {row.ref: str(row.columns.get("name", "")) for row in rows}
        #: The switch of each of its ports.
        self.switch_of: dict[str, str] = {}
        #: The ports to provider networks, by switch.
        self.localnets: dict[str, list[str]] = {}
        #: The refs of switches and routers.
        self.refs: dict[str, RowRef] = {}
        self.router_ports: dict[str, RouterEnd] = {}
        self.nats: list[Translator] = []
        ends: dict[str, tuple[str, str]] = {}
        for row in rows:
            name, parent = self._names[row.ref], self._names.get(row.parent, "") if row.parent else ""
            match row.ref.table:
                case "Logical_Switch" | "Logical_Router":
                    self.refs[name] = row.ref
                case "Logical_Switch_Port":
                    self.switch_of[name] = parent
                    if row.columns.get("type") == "localnet":
                        self.localnets.setdefault(parent, []).append(name)
                    options = row.columns.get("options")
                    if isinstance(options, Mapping) and "router-port" in options:
                        ends[options["router-port"]] = (parent, name)
        for row in by_ref.values():
            parent = self._names.get(row.parent, "") if row.parent else ""
            if row.ref.table == "Logical_Router_Port":
                name = self._names[row.ref]
                switch, port = ends.get(name, ("", ""))
                networks = tuple(map(ipaddress.ip_interface, _texts(row.columns["networks"])))
                self.router_ports[name] = RouterEnd(
                    name, parent, str(row.columns["mac"]).lower(), networks, switch, port
                )
            elif row.ref.table == "NAT":
                self.nats.append(
                    Translator(
                        row.ref,
                        parent,
                        row.columns["type"] == "dnat_and_snat",
                        ipaddress.ip_address(str(row.columns["external_ip"])),
                        ipaddress.ip_network(str(row.columns["logical_ip"]), strict=False),
                    )
                )

    def ports_on(self, switch: str) -> Iterator[RouterEnd]:
        """Yield the ports of routers that are linked to a switch."""
        return (port for port in self.router_ports.values() if port.switch == switch)

    def external_addresses(self, address: Address) -> Iterator[Translator]:
        """Yield the translations by which an address is reached from elsewhere."""
        for nat in self.nats:
            if nat.is_both and nat.logical.num_addresses == 1 and nat.logical.network_address == address:
                yield nat

    def subnets(self) -> Iterator[Network]:
        """Yield the subnets of all router ports."""
        for port in self.router_ports.values():
            yield from (each.network for each in port.addresses)


def _texts(value: object) -> Iterable[str]:
    return (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
