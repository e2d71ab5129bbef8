"""What the config says about OVN: provider networks, and databases that exist already; and its checks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from kvmcompose.core.chassis import Remotes
from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.ip import ip_interface
from kvmcompose.core.model import Host
from kvmcompose.core.names import INTERFACE_NAME_LIMIT
from kvmcompose.core.project import FileKind, ProjectFiles

_DATABASES = ("ovn_northbound", "ovn_southbound")
OVN_KEYS = ("ovn_private_key", "ovn_certificate", "ovn_ca_certificate")
#: A member of a cluster (ovsdb(7), "Connection Methods").
_MEMBER = re.compile(
    r"(?:(?:tcp|ssl):(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})|unix:/[!-~]+)"
)
_LAST_PORT = 65535
#: Of provider networks and their bridges: names of both are in one list, between ':' and ','
#: (ovn-controller(8), ``ovn-bridge-mappings``), and those of bridges are words of nft(8).
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def parse_remotes(config: dict[str, Any]) -> Remotes | None:
    """Return the databases of an OVN that exists already, if the config names them."""
    north, south = (_members(config.get(key)) for key in _DATABASES)
    if not (north and south):
        return None
    keys = {key: config[key] for key in OVN_KEYS if config.get(key) is not None}
    return Remotes(ovn_northbound=north, ovn_southbound=south, **keys)


def _members(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the members of a cluster: a list, or separated by commas."""
    texts = value.split(",") if isinstance(value, str) else value or ()
    return tuple(each.strip() for each in texts)


def check_remotes(config: dict[str, Any] | None, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of the databases: one without the other, invalid members, keys that are missing."""
    if config is None:
        return
    given = [key for key in (*_DATABASES, *OVN_KEYS) if config.get(key) is not None]
    lacking = [key for key in _DATABASES if key not in given]
    if given and lacking:
        yield Complaint(
            code="missing-key",
            path=(given[0],),
            at_key=True,
            message=f"'{given[0]}' needs '{lacking[0]}': the databases of one OVN belong together",
            wanted="tcp:<address>:<port>, ssl:<address>:<port> or unix:/<file>",
        )
    secure = False
    for key in _DATABASES:
        for member in _members(config.get(key)):
            found = _MEMBER.fullmatch(member)
            secure |= member.startswith("ssl:")
            if found is None or int(found["port"] or 1) not in range(1, _LAST_PORT + 1):
                yield Complaint(
                    code="bad-value",
                    path=(key,),
                    message="not a member of a database's cluster",
                    found=repr(member),
                    wanted="tcp:<address>:<port>, ssl:<address>:<port> or unix:/<file>",
                )
    for key in OVN_KEYS:
        path = config.get(key)
        if path is None and secure:
            yield Complaint(
                code="missing-key",
                path=(next(each for each in _DATABASES if "ssl:" in str(config.get(each))),),
                message=f"'ssl' needs '{key}'",
                wanted="the path of a PEM file",
            )
        elif path is not None and files.kind(path) is FileKind.MISSING:
            yield Complaint(
                code="missing-file",
                path=(key,),
                message=f"{path!r} does not exist; `up` will need it",
                severity=Severity.WARNING,
            )


def check_mappings(hosts: Sequence[Host]) -> Iterator[Complaint]:
    """Yield the problems of the provider networks of hosts."""
    for host in hosts:
        seen: set[str] = set()
        for index, (name, bridge, address) in enumerate(host.ovn.bridge_mappings if host.ovn else ()):
            at = ("testbed_host_ssh_config", host.name, "ovn", "bridge_mappings", index)
            if name in seen:
                yield Complaint(
                    code="duplicate-name",
                    path=(*at, 0),
                    message=f"the host has a provider network {name!r} already",
                )
            seen.add(name)
            if not _NAME.fullmatch(name):
                yield Complaint(
                    code="bad-name",
                    path=(*at, 0),
                    message="not the name of a provider network",
                    found=repr(name),
                    wanted="letters, digits, '.', '_' and '-', such as public",
                )
            is_name = _NAME.fullmatch(bridge) and len(bridge) <= INTERFACE_NAME_LIMIT
            if not is_name or bridge == host.chassis.bridge:
                yield Complaint(
                    code="bad-name",
                    path=(*at, 1),
                    message="not the name of a bridge beside the integration bridge",
                    found=repr(bridge),
                    wanted=f"at most {INTERFACE_NAME_LIMIT} letters, digits, '.', '_' and '-', such as br-ex",
                )
            try:
                found = ip_interface(address)
            except ValueError:
                found = None
            if found is None or "/" not in address:
                yield Complaint(
                    code="bad-address",
                    path=(*at, 2),
                    message="not an address with its prefix length",
                    found=repr(address),
                    wanted="the host's address on that bridge, such as 172.16.1.1/24",
                )
