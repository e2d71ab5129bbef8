"""Which addresses a network configuration of the user's own gives to a guest's interfaces.

Formats: cloud-init's "Networking config Version 1" and "Version 2" (netplan's). Interfaces are matched by
their MAC addresses. What is not of the formats counts as nothing: cloud-init says what is wrong with it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import Interface
from kvmcompose.guests._cloud_init import LARGEST, StoredCloudInit
from kvmcompose.guests._yaml_places import YamlPlaces, yaml_places, yaml_value
from kvmcompose.render.cloud_init import NETWORK_CONFIG

_Path = tuple[str | int, ...]
#: What version 2 has beside Ethernet interfaces, and may have their addresses.
_UPPER = ("bonds", "bridges", "vlans")
_TRUE = ("true", "yes", "on")


class _Configured(msgspec.Struct, frozen=True):
    """What an entry gives to an interface: that with a MAC address, or to any (None). ``path`` is its place.

    ``dhcp`` are the versions of IP with DHCP, or with what the network announces.
    """

    path: _Path
    mac: str | None
    addresses: frozenset[str]
    dhcp: frozenset[int]


def check_addresses(
    section: StoredCloudInit | None,
    guest: str,
    interfaces: Sequence[Interface],
    at: _Path,
    files: ProjectFiles,
) -> Iterator[Complaint]:
    """Yield a warning for each interface of a guest that gets another address than the testbed has for it.

    ``at`` is the place of the network configuration in the YAML.
    """
    value, found = _read(section, files)
    entries = [*_entries(value)]
    for number, nic in enumerate(interfaces) if entries else ():
        own = [each for each in entries if each.mac == nic.mac.lower()]
        given = own + [each for each in entries if each.mac is None]
        for address in filter(None, (_plain(nic.ip), _plain(nic.ipv6))):
            if any(address in each.addresses or _version(address) in each.dhcp for each in given):
                continue
            path = given[0].path if given else ()
            yield Complaint(
                code="other-address",
                path=at if found else (*at, *path),
                message=f"interface {number} of {guest!r} ({nic.mac}) does not get {address},"
                " at which the testbed reaches it",
                hint=f"write {address} here, or at the interface the 'ip' that is here",
                severity=Severity.WARNING,
                location=found.near(path) if found else None,
            )


def _read(section: StoredCloudInit | None, files: ProjectFiles) -> tuple[Any, YamlPlaces | None]:
    """Return the configuration, and the places in its file if it has one; None where there is none."""
    if section is None:
        return None, None
    if NETWORK_CONFIG in section.values:
        return msgspec.json.decode(section.values[NETWORK_CONFIG]), None
    path = section.paths.get(NETWORK_CONFIG)
    data = files.content(path, LARGEST) if path is not None else None
    return _parsed(data, path) if data is not None and path is not None else (None, None)


@lru_cache(maxsize=1)  # for the clones of a machine
def _parsed(data: bytes, name: str) -> tuple[Any, YamlPlaces | None]:
    try:
        text = data.decode()
        found = yaml_places(text, name)
        is_fine = found.flaw is None and found.are_few_aliases
        return (yaml_value(text), found) if is_fine else (None, None)
    except ValueError:
        return None, None


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _plain(address: Any) -> str | None:
    """Return an address without its prefix length, in its usual form; None for no address."""
    try:
        return str(ipaddress.ip_interface(str(address)).ip)
    except ValueError:
        return None


def _entries(value: Any) -> Iterator[_Configured]:
    at: _Path = ()
    if isinstance(value, dict) and isinstance(value.get("network"), dict):
        value, at = value["network"], ("network",)
    if not isinstance(value, dict):
        return
    if str(value.get("version")) == "1":
        for number, entry in enumerate(_list(value.get("config"))):
            if isinstance(entry, dict):
                yield _of_version_1(entry, (*at, "config", number))
        return
    for kind in ("ethernets", *_UPPER):
        section = value.get(kind)
        for name, entry in section.items() if isinstance(section, dict) else ():
            if isinstance(entry, dict):
                yield _of_version_2(entry, (*at, kind, str(name)), any_nic=kind in _UPPER)


def _of_version_1(entry: dict[str, Any], path: _Path) -> _Configured:
    addresses: set[str | None] = set()
    dhcp: set[int] = set()
    for subnet in _list(entry.get("subnets")):
        if isinstance(subnet, dict):
            kind = str(subnet.get("type"))
            addresses.add(_plain(subnet.get("address")))
            if kind.startswith(("dhcp", "ipv6_dhcp", "ipv6_slaac")):
                dhcp.add(6 if "6" in kind else 4)
    mac = entry.get("mac_address") if entry.get("type") == "physical" else None
    return _Configured(path, _mac(mac), frozenset(filter(None, addresses)), frozenset(dhcp))


def _of_version_2(entry: dict[str, Any], path: _Path, *, any_nic: bool) -> _Configured:
    match = entry.get("match")
    mac = match.get("macaddress") if isinstance(match, dict) and not any_nic else None
    addresses: set[str | None] = set()
    for each in _list(entry.get("addresses")):
        # netplan permits a mapping from an address to its options
        addresses.update(map(_plain, each if isinstance(each, dict) else [each]))
    dhcp = {version for version in (4, 6) if str(entry.get(f"dhcp{version}")).lower() in _TRUE}
    if str(entry.get("accept-ra")).lower() in _TRUE:
        dhcp.add(6)
    return _Configured(path, _mac(mac), frozenset(filter(None, addresses)), frozenset(dhcp))


def _mac(value: Any) -> str | None:
    return str(value).lower() if value is not None else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
