"""Seeds of Windows guests, as cloudbase-init reads them: NoCloud, or a config drive of OpenStack.

Formats: cloudbase-init's services NoCloudConfigDriveService and ConfigDriveService, and OpenStack's
"network_data.json". cloudbase-init compares volume labels without case.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvmcompose.render.cloud_init import PREFIX, network_config, user_data_alone
from kvmcompose.render.seed import SeedInterface, SeedValues, WindowsSeed

PASSWORD_FILE = f"{PREFIX}password"
_OPENSTACK = "openstack/latest"


def instance_id(values: SeedValues, digest: Any) -> str:
    """Return the id of a guest's instance, from the digest of its data."""
    return f"{values.domain or values.hostname}-{digest.hexdigest()[:16]}"


def windows_files(
    values: SeedValues, windows: WindowsSeed, files: Mapping[str, bytes], keys: Sequence[str], network: bytes
) -> dict[str, bytes]:
    """Return the files of a seed by their paths. ``network`` is our own network configuration."""
    given = values.cloud_init
    network = (network_config(given, files) if given is not None else None) or network
    data = user_data_alone(given, files) if given is not None else None
    password = files[PASSWORD_FILE].decode().rstrip("\r\n") if PASSWORD_FILE in files else None
    digest = hashlib.sha256()
    for part in (network, data or b"", json.dumps([values.username, password, *keys]).encode()):
        digest.update(hashlib.sha256(part).digest())
    name = instance_id(values, digest)
    if windows.datasource == "configdrive":
        return _config_drive(values, name, password, keys, data)
    meta_data: dict[str, Any] = {
        "instance-id": name,
        "local-hostname": values.hostname,
        "admin-username": values.username,
        **({"admin-password": password} if password is not None else {}),
        "public-keys": list(keys),
    }
    return {
        "meta-data": _json(meta_data),
        **({"user-data": data} if data is not None else {}),
        "network-config": network,
    }


def _config_drive(
    values: SeedValues, name: str, password: str | None, keys: Sequence[str], data: bytes | None
) -> dict[str, bytes]:
    secret = {"admin_pass": password} if password is not None else {}
    meta_data = {
        "uuid": name,
        "hostname": values.hostname,
        "name": values.hostname,
        "public_keys": {f"key-{number}": key for number, key in enumerate(keys)},
        "meta": {"admin_username": values.username, **secret},
        **secret,
    }
    return {
        f"{_OPENSTACK}/meta_data.json": _json(meta_data),
        **({f"{_OPENSTACK}/user_data": data} if data is not None else {}),
        f"{_OPENSTACK}/network_data.json": _json(_network_data(values.interfaces)),
    }


def _network_data(interfaces: Sequence[SeedInterface]) -> dict[str, Any]:
    """Return the interfaces as OpenStack describes them."""
    servers = [each for nic in interfaces for each in _nameservers(nic)]
    return {
        "links": [
            {"id": nic.name, "name": nic.name, "type": "phy", "ethernet_mac_address": nic.mac, "mtu": nic.mtu}
            for nic in interfaces
        ],
        "networks": [
            {"id": f"{nic.name}-{number}", "network_id": f"{nic.name}-{number}", "link": nic.name, **each}
            for nic in interfaces
            for number, each in enumerate(_networks(nic))
        ],
        "services": [{"type": "dns", "address": each} for each in dict.fromkeys(servers)],
    }


def _nameservers(nic: SeedInterface) -> tuple[str, ...]:
    if nic.ovn is not None:
        return nic.ovn.nameservers
    return (nic.gateway,) if nic.gateway is not None and nic.ip != "dynamic" else ()


def _networks(nic: SeedInterface) -> Iterator[dict[str, Any]]:
    """Yield an interface's networks: those with DHCP, and its addresses with the routes of their family."""
    if nic.ovn is not None:
        addresses, families = nic.ovn.addresses, nic.ovn.dhcp
        routers = tuple(route.via for route in nic.ovn.routes)
    elif nic.ip == "dynamic":
        addresses, families, routers = (), (4,), ()
    else:
        addresses, families = (f"{nic.ip}/{nic.prefix_length}",), ()
        routers = (nic.gateway,) if nic.gateway is not None else ()
    yield from ({"type": f"ipv{family}_dhcp"} for family in families)
    for each in addresses:
        address = ipaddress.ip_interface(each)
        routes = [via for via in routers if ipaddress.ip_address(via).version == address.version]
        default = "0.0.0.0" if address.version == 4 else "::"  # noqa: S104, PLR2004 (a route)
        yield {
            "type": f"ipv{address.version}",
            "ip_address": str(address.ip),
            "netmask": str(address.netmask),
            "routes": [{"network": default, "netmask": default, "gateway": via} for via in routes],
        }


def _json(value: Any) -> bytes:
    """Return JSON, which is YAML, too."""
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"
