"""The oracle for a compiled project whose dialect describes its network as rows of OVN."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from kvmcompose.core.document import Path, show_path
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.core.northbound import Row, RowRef
from kvmcompose.core.state import Interface, State
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.pipeline.logical import Documents
from kvmcompose.reachability.causes import Places
from kvmcompose.reachability.logical_network import GuestNic
from kvmcompose.reachability.oracle import OvnOracle, outside_neighbours
from kvmcompose.reachability.throwaway import Throwaway, throwaway

#: The length of the prefix of an IPv6 address that routers advertise (RFC 4862).
_IPV6_PREFIX = 64
_IPV6 = 6


class Described(Protocol):
    """The part of a dialect that describes its network as rows."""

    def northbound(self, state: State, *, management: bool) -> tuple[Row, ...]:
        """Return the rows; without ``management`` those that are between guests."""

    def row_path(self, network: Any, ref: RowRef) -> Path:
        """Return where the YAML has what a row is made from."""


@contextmanager
def ovn_oracle(compiled: Compiled, documents: Documents, dialect: Described) -> Iterator[OvnOracle]:
    """Load the network into a throw-away OVN. Raises InputError for rules that OVN does not understand."""
    logical = compiled.placed.logical
    rows = dialect.northbound(compiled.state, management=False)
    places = _Places(logical, dialect)
    with throwaway(rows, outside_neighbours(rows)) as ovn:
        problems = list(unparsed_rules(ovn, rows, places, documents))
        if problems:
            raise InputError(problems)
        guests = [guest.name for guest in logical.guests if not guest.is_golden_image]
        yield OvnOracle(ovn, rows, nics(compiled.state), guests, places)


class _Places:
    """See ``Places``."""

    def __init__(self, logical: LogicalTestbed, dialect: Described) -> None:
        self._network = logical.network
        self._dialect = dialect
        self._guests = {guest.name: guest for guest in logical.guests}

    def row(self, ref: RowRef) -> Path:
        return self._dialect.row_path(self._network, ref)

    def interfaces(self, guest: str) -> Path:
        return self._guests[guest].interfaces_path


def unparsed_rules(
    ovn: Throwaway, rows: Sequence[Row], places: Places, documents: Documents
) -> Iterator[Problem]:
    """Yield the rules that OVN does not understand, each once."""
    seen: set[RowRef] = set()
    for match, complaint in ovn.unparsed():
        rules = [row for row in rows if row.ref.table == "ACL" and str(row.columns["match"]) in match]
        if not rules:
            continue
        rule = max(rules, key=lambda row: len(str(row.columns["match"])))
        if rule.ref in seen:
            continue
        seen.add(rule.ref)
        path = (*places.row(rule.ref), "match")
        yield Problem(
            code="bad-match",
            message=f"OVN does not understand this match: {complaint}",
            location=documents.testbed.locate(path),
            path=show_path(path),
            found=str(rule.columns["match"]),
            hint="the language of matches is described in ovn-sb(5), at the table Logical_Flow",
        )


def nics(state: State) -> Iterator[GuestNic]:
    """Yield the guests' interfaces that are logical ports."""
    for guest in state.testbed_guests.values():
        for nic in guest.interfaces:
            if nic.interface_id is not None:
                gateways = (nic.gateway, nic.ipv6_gateway)
                yield GuestNic(
                    guest=guest.name,
                    port=nic.interface_id,
                    mac=nic.mac,
                    addresses=tuple(_with_prefix(nic, each) for each in nic.addresses),
                    gateways=tuple(ipaddress.ip_address(each) for each in gateways if each is not None),
                    up=nic.link == "up",
                )


def _with_prefix(nic: Interface, text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    address = ipaddress.ip_address(text)
    second, _, length = (nic.ipv6 or "").partition("/")
    if text == second and length:
        return ipaddress.ip_interface(nic.ipv6 or "")
    is_second = address.version == _IPV6 and nic.ipv6 is not None
    return ipaddress.ip_interface(f"{text}/{_IPV6_PREFIX if is_second else nic.prefix_length}")
