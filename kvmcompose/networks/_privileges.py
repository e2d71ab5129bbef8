"""What Open vSwitch bridges reach on their hosts, from the network plan."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from kvmcompose.core.deployable import NetworkPlan
from kvmcompose.core.privilege import Privilege, PrivilegeKind

#: An active connection to an address (ovs-vsctl(8), "OpenFlow Controller Connectivity"); IPv6 in brackets.
_CONNECTION = re.compile(r"(?:tcp|ssl):(?:\[([0-9a-fA-F:]+)\]|([0-9.]+))(?::[0-9]{1,5})?", re.ASCII)


def privileges(network_plan: NetworkPlan, *, for_member: bool) -> Iterator[Privilege]:
    """See ``Dialect.privileges``.

    A controller on loopback is a program of the user, because a lab cannot start programs on the host. On a
    server with several users it may belong to any of them; and a controller can do more than guests can:
    flush the connection tracking of the whole host (NXT_CT_FLUSH), or add entries.
    """
    called = {bridge.name: f"bridge {bridge.segment or bridge.name}" for bridge in network_plan.bridges}
    for nic in network_plan.nics:
        yield Privilege(PrivilegeKind.NIC, f"{nic.nic} of the host {nic.host}", called[nic.bridge])
    for bridge in network_plan.bridges:
        if bridge.controller and (for_member or not _is_loopback(bridge.controller)):
            yield Privilege(PrivilegeKind.CONTROLLER, bridge.controller, called[bridge.name])


def _is_loopback(controller: str) -> bool:
    found = _CONNECTION.fullmatch(controller)
    try:
        return found is not None and ipaddress.ip_address(found[1] or found[2]).is_loopback
    except ValueError:
        return False
