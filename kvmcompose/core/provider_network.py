"""The addresses that a testbed has in a provider network, by the rows of its network in OVN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_interface

from kvmcompose.core.northbound import Row, RowRef, Value


def outside_addresses(rows: Iterable[Row], network: str) -> Mapping[str, RowRef]:
    """Return the addresses of a testbed in a provider network, IP and MAC, each with the row that has it.

    They are those of ports of routers and guests on switches with a ``localnet`` port of the network, and the
    external addresses of the routers' NAT.
    """
    rows = list(rows)
    ports = [row for row in rows if row.ref.table == "Logical_Switch_Port"]
    outside = {
        row.parent
        for row in ports
        if row.columns.get("type") == "localnet" and _option(row, "network_name") == network
    }
    on_it = [row for row in ports if row.parent in outside]
    ends = {_option(row, "router-port") for row in on_it}
    routers = {
        row.parent
        for row in rows
        if row.ref.table == "Logical_Router_Port" and row.columns.get("name") in ends
    }
    found: dict[str, RowRef] = {}
    for row in rows:
        for text in _addresses(row, outside, ends, routers):
            found.setdefault(_normal(text), row.ref)
    return found


def _addresses(
    row: Row, switches: set[RowRef | None], ends: set[str], routers: set[RowRef | None]
) -> Iterator[str]:
    """Yield the addresses of a row, if it is in the network."""
    columns = row.columns
    match row.ref.table:
        case "Logical_Switch_Port" if row.parent in switches:
            for each in _texts(columns.get("addresses")):
                yield from (word for word in each.split() if word not in ("router", "unknown", "dynamic"))
        case "Logical_Router_Port" if columns.get("name") in ends:
            yield from (*_texts(columns.get("mac")), *_texts(columns.get("networks")))
        case "NAT" if row.parent in routers:
            yield from _texts(columns.get("external_ip"))


def _option(row: Row, key: str) -> str:
    options = row.columns.get("options")
    return options.get(key, "") if isinstance(options, Mapping) else ""


def _texts(value: Value | None) -> Iterator[str]:
    """Yield the texts of a set, which is a text where it has one."""
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, str):
            yield each


def _normal(text: str) -> str:
    """Return an address in one form, without its prefix length."""
    try:
        return str(ip_interface(text).ip if "/" in text else ip_address(text))
    except ValueError:
        return text.lower()  # a MAC address
