"""The names of rows in OVN's northbound database, by what the YAML has them from.

They are composed here only: ``check`` finds the line of a row by the same name that the row was given.
"""

from __future__ import annotations

from kvmcompose.core.northbound import RowRef
from kvmcompose.networks._ovn_model import DhcpState, Nat, Rule, StaticRoute


def switch_ref(name: str) -> RowRef:
    """Return the row of a switch."""
    return RowRef("Logical_Switch", name)


def router_ref(name: str) -> RowRef:
    """Return the row of a router."""
    return RowRef("Logical_Router", name)


def router_port_ref(name: str) -> RowRef:
    """Return the row of a router's port."""
    return RowRef("Logical_Router_Port", name)


def route_ref(router: str, route: StaticRoute) -> RowRef:
    """Return the row of a static route."""
    return RowRef("Logical_Router_Static_Route", f"{router} {route.prefix} via {route.nexthop}")


def nat_ref(router: str, nat: Nat) -> RowRef:
    """Return the row of an address translation."""
    return RowRef("NAT", f"{router} {nat.nat_type} {nat.external_ip} {nat.logical_ip}")


def rule_ref(switch: str, rule: Rule) -> RowRef:
    """Return the row of a rule of the YAML."""
    return RowRef("ACL", f"{switch} {rule.direction} {rule.priority} {rule.match}")


def management_rule_ref(switch: str, direction: str) -> RowRef:
    """Return the row of a rule for the switch's management port."""
    return RowRef("ACL", f"{switch} {_MANAGEMENT}{direction}")


def is_management_rule(ref: RowRef) -> bool:
    """Return whether a rule is for a management port; names of switches have no blanks."""
    return ref.table == "ACL" and ref.name.partition(" ")[2].startswith(_MANAGEMENT)


def dhcp_ref(dhcp: DhcpState) -> RowRef:
    """Return the row of DHCP in one subnet of a switch."""
    return RowRef("DHCP_Options", f"{dhcp.switch} {dhcp.cidr}")


_MANAGEMENT = "management "
