"""``apply_deny_all``: the rules that drop what no rule of the YAML allows.

A packet passes two lists: ``from-lport`` of the port where it enters the switch, ``to-lport`` of the port
where it leaves. At guests both drop by default, so a connection needs a rule in each. Ports of routers and
provider networks drop nothing: OVN tracks no connections there, so a rule could not distinguish replies from
other packets; and the lists of the guest at the other end apply anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmcompose.networks._ovn_model import OvnState, Rule

#: Rules of the YAML have higher priorities than these.
DROP, ASIDE = 0, 1
LOWEST = 2

_NEIGHBOURS = "nd || nd_rs || mldv1 || mldv2"
_DHCP = "(udp.src == 68 && udp.dst == 67) || (udp.src == 546 && udp.dst == 547)"
_DHCP_REPLY = "(udp.src == 67 && udp.dst == 68) || (udp.src == 547 && udp.dst == 546)"


def deny_all(switch: str, network: OvnState) -> Iterator[tuple[str, Rule]]:
    """Yield the rules of a switch, with the names of their rows."""

    def rule(direction: str, what: str, priority: int, match: str, action: str) -> tuple[str, Rule]:
        found = Rule(direction, priority, match, action)  # type: ignore[arg-type]
        return f"{switch} apply_deny_all {direction} {what}", found

    yield rule("from-lport", "ARP, ND and DHCP", ASIDE, f"arp || {_NEIGHBOURS} || {_DHCP}", "allow")
    yield rule("from-lport", "DNS", ASIDE, "udp.dst == 53 || tcp.dst == 53", "allow-related")
    yield rule(
        "to-lport", "ARP, ND and DHCP", ASIDE, f"arp || {_NEIGHBOURS} || nd_ra || {_DHCP_REPLY}", "allow"
    )
    transit = [port.lsp_name for port in network.router_ports.values() if port.switch == switch]
    transit += [
        port.name
        for port in network.switch_ports.values()
        if port.parent_switch == switch and port.mac_address is None
    ]
    if transit:
        ports = "{" + ", ".join(f'"{name}"' for name in sorted(transit)) + "}"
        for direction, field in (("from-lport", "inport"), ("to-lport", "outport")):
            yield rule(direction, "routers", ASIDE, f"{field} == {ports}", "allow-stateless")
    for direction in ("from-lport", "to-lport"):
        yield rule(direction, "drop", DROP, "1", "drop")
