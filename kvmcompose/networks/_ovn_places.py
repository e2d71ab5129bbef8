"""Where the YAML has what a row of the northbound database is made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvmcompose.core.document import Path
from kvmcompose.core.northbound import RowRef
from kvmcompose.networks._ovn_model import OvnNetwork

_AT: Path = ("network", "ovn")


def row_path(network: OvnNetwork, ref: RowRef) -> Path:
    """Return the path of what ``northbound`` has made a row from; empty if that is no line of the YAML."""
    match ref.table:
        case "Logical_Switch":
            return (*_AT, "switches", ref.name) if ref.name in network.switches else ()
        case "Logical_Router":
            return (*_AT, "routers", ref.name) if ref.name in network.routers else ()
        case "Logical_Router_Port":
            return _of_router(network, "ports", lambda _, port: port.name == ref.name)
        case "Logical_Router_Static_Route":
            return _of_router(
                network,
                "static_routes",
                lambda router, route: f"{router} {route.prefix} via {route.nexthop}" == ref.name,
            )
        case "NAT":
            return _of_router(
                network,
                "nat",
                lambda router, nat: f"{router} {nat.nat_type} {nat.external_ip} {nat.logical_ip}" == ref.name,
            )
        case "ACL":
            return _rule_path(network, ref)
    return ()


def _of_router(network: OvnNetwork, key: str, is_it: Callable[[str, Any], bool]) -> Path:
    for name, router in network.routers.items():
        for index, entry in enumerate(getattr(router, key)):
            if is_it(name, entry):
                return (*_AT, "routers", name, key, index)
    return ()


def _rule_path(network: OvnNetwork, ref: RowRef) -> Path:
    if ref.name.partition(" ")[2].startswith("management "):  # names of switches have no blanks
        return ("testbed_options", "management")
    for switch, rules in network.acl.switches.items():
        for index, rule in enumerate(rules):
            if f"{switch} {rule.direction} {rule.priority} {rule.match}" == ref.name:
                return (*_AT, "acl", "switches", switch, index)
    return (*_AT, "acl", "apply_deny_all") if network.acl.apply_deny_all else ()
