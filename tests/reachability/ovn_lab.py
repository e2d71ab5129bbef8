"""Small networks of OVN, as rows and as the interfaces of their guests."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvmcompose.core.document import Path
from kvmcompose.core.northbound import Row, RowRef, Value
from kvmcompose.reachability.logical_network import GuestNic
from kvmcompose.reachability.oracle import OvnOracle, outside_neighbours
from kvmcompose.reachability.throwaway import throwaway

#: The host's end of the provider network, which is the next hop of routers.
OUTSIDE = ipaddress.ip_interface("172.16.1.1/24")


@dataclass(repr=False)
class Lab:
    """A network that a test describes. Switch ``s<n>`` has the subnet 10.0.n.0/24, its router port .1."""

    rows: list[Row] = field(default_factory=list)
    nics: list[GuestNic] = field(default_factory=list)
    guests: list[str] = field(default_factory=list)

    def add(
        self, table: str, called: str, parent: RowRef | None = None, column: str = "", /, **columns: Value
    ) -> RowRef:
        ref = RowRef(table, called)
        self.rows.append(Row(ref=ref, columns=columns, parent=parent, parent_column=column))
        return ref

    def __repr__(self) -> str:
        """Return what a message needs."""
        rows = [f"{row.ref} of {row.parent}: {dict(row.columns)}" for row in self.rows]
        nics = [
            f"{nic.guest}: {nic.port} {[*map(str, nic.addresses)]} via {[*map(str, nic.gateways)]}"
            for nic in self.nics
        ]
        return "\n".join([*rows, *nics])

    def switch(self, name: str) -> None:
        self.add("Logical_Switch", name, name=name)

    def port(self, switch: str, name: str, /, **columns: Value) -> None:
        self.add("Logical_Switch_Port", name, RowRef("Logical_Switch", switch), "ports", name=name, **columns)

    def guest(self, name: str, switch: str, address: str, gateway: str | None = None) -> GuestNic:
        """Attach a guest; with several calls, several interfaces."""
        interface = ipaddress.ip_interface(address)
        number = len(self.nics) + 16
        mac = f"00:00:00:00:00:{number:02x}"
        port = f"{name}-{sum(nic.guest == name for nic in self.nics)}"
        self.port(switch, port, addresses=(f"{mac} {interface.ip}",))
        gateways = (ipaddress.ip_address(gateway),) if gateway else ()
        nic = GuestNic(guest=name, port=port, mac=mac, addresses=(interface,), gateways=gateways)
        self.nics.append(nic)
        if name not in self.guests:
            self.guests.append(name)
        return nic

    def localnet(self, switch: str) -> None:
        self.port(
            switch,
            f"{switch}-localnet",
            type="localnet",
            addresses=("unknown",),
            options={"network_name": "public"},
        )

    def router(self, name: str) -> None:
        self.add("Logical_Router", name, name=name)

    def link(self, router: str, switch: str, address: str, *, gateway: bool = False) -> None:
        name = f"{router}-{switch}"
        ref = RowRef("Logical_Router_Port", name)
        number = sum(row.ref.table == "Logical_Router_Port" for row in self.rows)
        mac = f"00:00:00:00:01:{number:02x}"
        self.port(
            switch, f"{switch}-{router}", type="router", addresses=("router",), options={"router-port": name}
        )
        self.add(
            "Logical_Router_Port", name, RowRef("Logical_Router", router), "ports",
            name=name, mac=mac, networks=(address,),
        )  # fmt: skip
        if gateway:
            self.add(
                "Gateway_Chassis", f"{name}-main", ref, "gateway_chassis",
                name=f"{name}-main", chassis_name="main", priority=1,
            )  # fmt: skip

    def route(self, router: str, prefix: str, hop: str) -> None:
        self.add(
            "Logical_Router_Static_Route", f"{router} {prefix}", RowRef("Logical_Router", router),
            "static_routes", ip_prefix=prefix, nexthop=hop,
        )  # fmt: skip

    def nat(self, router: str, kind: str, external: str, logical: str) -> None:
        self.add(
            "NAT", f"{router} {kind} {external} {logical}", RowRef("Logical_Router", router), "nat",
            type=kind, external_ip=external, logical_ip=logical,
        )  # fmt: skip

    def acl(self, switch: str, direction: str, priority: int, match: str, action: str) -> None:
        number = sum(row.ref.table == "ACL" for row in self.rows)
        self.add(
            "ACL", f"{number}", RowRef("Logical_Switch", switch), "acls",
            direction=direction, priority=priority, match=match, action=action,
        )  # fmt: skip

    @contextmanager
    def oracle(self) -> Iterator[OvnOracle]:
        with throwaway(self.rows, outside_neighbours(self.rows)) as ovn:
            yield OvnOracle(ovn, self.rows, self.nics, self.guests, NoPlaces())


class NoPlaces:
    """Places of rows: their names, in place of paths."""

    def row(self, ref: RowRef) -> Path:
        return (ref.table, ref.name)

    def interfaces(self, guest: str) -> Path:
        return ("interfaces", guest)


def two_switches_and_the_outside() -> Lab:
    """Return a lab: web and client on s0, db on s1, the outside behind router r, SNAT for s0 only."""
    lab = Lab()
    for name in ("s0", "s1", "pub"):
        lab.switch(name)
    lab.localnet("pub")
    lab.router("r")
    lab.link("r", "s0", "10.0.0.1/24")
    lab.link("r", "s1", "10.0.1.1/24")
    lab.link("r", "pub", "172.16.1.200/24", gateway=True)
    lab.route("r", "0.0.0.0/0", str(OUTSIDE.ip))
    lab.nat("r", "snat", "172.16.1.200", "10.0.0.0/24")
    lab.guest("web", "s0", "10.0.0.10/24", "10.0.0.1")
    lab.guest("client", "s0", "10.0.0.11/24", "10.0.0.1")
    lab.guest("db", "s1", "10.0.1.10/24", "10.0.1.1")
    return lab
