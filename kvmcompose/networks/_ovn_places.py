"""Where the YAML has what a row of the northbound database is made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvmcompose.core.document import Path
from kvmcompose.core.northbound import RowRef
from kvmcompose.networks._ovn_model import OvnNetwork
from kvmcompose.networks._ovn_refs import (
    is_management_rule,
    nat_ref,
    route_ref,
    router_port_ref,
    router_ref,
    rule_ref,
    switch_ref,
)

_AT: Path = ("network", "ovn")
#: The lists of a router in the YAML by the table of their rows, and the row of an entry.
_OF_ROUTERS: dict[str, tuple[str, Callable[[str, Any], RowRef]]] = {
    "Logical_Router_Port": ("ports", lambda _, port: router_port_ref(port.name)),
    "Logical_Router_Static_Route": ("static_routes", route_ref),
    "NAT": ("nat", nat_ref),
}


def row_path(network: OvnNetwork, ref: RowRef) -> Path:
    """Return the path of what ``northbound`` has made a row from; empty if that is no line of the YAML."""
    if ref.table == "ACL":
        return _rule_path(network, ref)
    if ref.name in network.switches and switch_ref(ref.name) == ref:
        return (*_AT, "switches", ref.name)
    if ref.name in network.routers and router_ref(ref.name) == ref:
        return (*_AT, "routers", ref.name)
    if ref.table in _OF_ROUTERS:
        key, row_of = _OF_ROUTERS[ref.table]
        for name, router in network.routers.items():
            for index, entry in enumerate(getattr(router, key)):
                if row_of(name, entry) == ref:
                    return (*_AT, "routers", name, key, index)
    return ()


def _rule_path(network: OvnNetwork, ref: RowRef) -> Path:
    if is_management_rule(ref):
        return ("testbed_options", "management")
    for switch, rules in network.acl.switches.items():
        for index, rule in enumerate(rules):
            if rule_ref(switch, rule) == ref:
                return (*_AT, "acl", "switches", switch, index)
    return (*_AT, "acl", "apply_deny_all") if network.acl.apply_deny_all else ()
