"""Read OVN's dialect: from data of the schema's shape to the types of ``_ovn_model``.

Addresses get their usual spelling where they are valid; ``check`` reports the others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from kvmcompose.core.model import Attachment, ScaledAttachment
from kvmcompose.core.nic import nic_keys
from kvmcompose.networks._ovn_model import (
    DYNAMIC,
    Acl,
    Dhcp,
    Internal,
    Nat,
    OvnNetwork,
    Range,
    Router,
    RouterPort,
    Rule,
    ScaledSwitchNic,
    StaticRoute,
    Switch,
    SwitchNic,
    SwitchPort,
)

_Entry = Mapping[str, Any]


def texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return a value that is one text or a list of them."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def spelling(text: str) -> str:
    """Return an address, with or without a prefix length, in its usual spelling; other text unchanged."""
    for parse in (ipaddress.ip_address, ipaddress.ip_interface):
        try:
            return str(parse(text))
        except ValueError:
            continue
    return text


def _spellings(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return tuple(map(spelling, texts(value)))


def attachments(machine: _Entry) -> tuple[Attachment, ...]:
    """Return the interfaces of a machine. TestbedOS 1.0 has one mapping in place of the list."""
    given = machine.get("network") or ()
    if isinstance(given, Mapping):
        return (_attachment(given, ("network",)),)
    return tuple(_attachment(each, ("network", index)) for index, each in enumerate(given))


def _attachment(entry: _Entry, at: tuple[str | int, ...]) -> Attachment:
    mac = entry.get("mac")
    nic = SwitchNic(
        at, _spellings(entry.get("ip")), _spellings(entry.get("gateway")), entry.get("network_name")
    )
    ip = nic.ips[0] if nic.ips else None
    return Attachment(entry["switch"], mac.lower() if mac is not None else None, ip, nic, nic_keys(entry), at)


def scaled(entries: Mapping[str, _Entry]) -> tuple[ScaledAttachment, ...]:
    """Return the interfaces of clones, by switch. The order of keys has no meaning."""
    return tuple(_scaled(switch, entry) for switch, entry in sorted((entries or {}).items()))


def _scaled(switch: str, entry: _Entry) -> ScaledAttachment:
    kind = entry.get("ip_type")
    is_dynamic = kind == DYNAMIC
    given = kind["ip_range"] if isinstance(kind, Mapping) else ()
    ranges = [_range(each) for each in ((given,) if isinstance(given, Mapping) else given)]
    macs = _range(entry["mac_range"]) if entry.get("mac_range") is not None else None
    gateways = _spellings(entry.get("gateway"))
    clones = tuple(entry["clones"])
    at = ("scaling", "interfaces", switch)
    own = ScaledSwitchNic(is_dynamic, tuple(ranges), macs)
    keys = nic_keys(entry)
    whole = Attachment(switch, None, DYNAMIC if is_dynamic else None, own, keys, at)
    ips = [addresses_of(each) for each in ranges]
    mac_list = macs_of(macs, len(clones)) if macs is not None else []
    each = []
    for position, _ in enumerate(clones):
        of_clone = tuple(found[position] for found in ips if position < len(found))
        nic = SwitchNic(at, (DYNAMIC,) if is_dynamic else of_clone, gateways)
        mac = mac_list[position] if position < len(mac_list) else None
        each.append(Attachment(switch, mac, nic.ips[0] if nic.ips else None, nic, keys, at))
    return ScaledAttachment(whole, clones, switch, tuple(each))


#: More than the clones of a machine.
_MOST = 10_001


def _range(entry: _Entry) -> Range:
    return Range(spelling(entry["from"]).lower(), spelling(entry["to"]).lower())


def addresses_of(span: Range) -> list[str]:
    """Return the addresses of a range; only the first ones of a very long one, none of an invalid one."""
    try:
        first, last = ipaddress.ip_address(span.first), ipaddress.ip_address(span.last)
    except ValueError:
        return []
    if first.version != last.version:
        return []
    kind = type(first)
    return [str(kind(number)) for number in islice(range(int(first), int(last) + 1), _MOST)]


def mac_number(mac: str) -> int:
    """Return a MAC address as a number."""
    return int(mac.replace(":", ""), 16)


def macs_of(span: Range, most: int = _MOST) -> list[str]:
    """Return the MAC addresses of a range, at most so many."""
    numbers = range(mac_number(span.first), mac_number(span.last) + 1)
    return [number.to_bytes(6, "big").hex(":") for number in islice(numbers, most)]


def parse(section: _Entry) -> OvnNetwork:
    """Return the ``network`` section. Switches and routers are sorted: the order of keys has no meaning."""
    ovn = section.get("ovn") or {}
    acl = ovn.get("acl") or {}
    switches = sorted((ovn.get("switches") or {}).items())
    routers = sorted((ovn.get("routers") or {}).items())
    rules = sorted((acl.get("switches") or {}).items())
    return OvnNetwork(
        switches={name: _switch(name, each) for name, each in switches},
        routers={name: _router(name, each or {}) for name, each in routers},
        acl=Acl(
            acl.get("apply_deny_all", False),
            {name: tuple(msgspec.convert(rule, Rule) for rule in each or ()) for name, each in rules},
        ),
    )


def _switch(name: str, entry: _Entry) -> Switch:
    ports = tuple(
        SwitchPort(
            name=port["name"],
            chassis=port.get("chassis"),
            internal=_internal(port["internal"]) if "internal" in port else None,
            localnet=port["localnet"]["network_name"] if "localnet" in port else None,
        )
        for port in entry.get("ports") or ()
    )
    return Switch(name, _spellings(entry["subnet"]), ports)


def _internal(entry: _Entry) -> Internal:
    return Internal(_spellings(entry["ip"]), entry["mac"].lower(), entry.get("network_name"))


def _router(name: str, entry: _Entry) -> Router:
    return Router(
        name=name,
        ports=tuple(
            RouterPort(
                name=port["name"],
                mac=port["mac"].lower(),
                gateway_ip=_spellings(port["gateway_ip"]),
                switch=port["switch"],
                set_gateway_chassis=port.get("set_gateway_chassis"),
            )
            for port in entry.get("ports") or ()
        ),
        static_routes=tuple(
            StaticRoute(spelling(route["prefix"]), spelling(route["nexthop"]))
            for route in entry.get("static_routes") or ()
        ),
        nat=tuple(
            Nat(nat["nat_type"], spelling(nat["external_ip"]), spelling(nat["logical_ip"]))
            for nat in entry.get("nat") or ()
        ),
        dhcp=tuple(
            Dhcp(dhcp["switch"], _range(dhcp["exclude_ips"]) if dhcp.get("exclude_ips") else None)
            for dhcp in entry.get("dhcp") or ()
        ),
    )
