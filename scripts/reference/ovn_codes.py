"""The problem codes of networks of OVN."""

from __future__ import annotations

from problem_codes import BASE, CONFIG, Example

NETWORK = """\
machines:
  - name: web
    network: [{switch: sw0, ip: 10.0.0.10, gateway: 10.0.0.1}]
    libvirt: {cpus: 1, memory_mb: 512, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: client
    libvirt:
      cpus: 1
      memory_mb: 512
      libvirt_type: {cloud_image: {name: debian_12}}
      scaling:
        count: 2
        interfaces:
          sw1:
            clones: [0, 1]
            ip_type: dynamic
network:
  ovn:
    switches:
      sw0: {subnet: 10.0.0.0/24}
      sw1: {subnet: 10.0.1.0/24}
      public:
        subnet: 172.16.1.0/24
        ports: [{name: ls-public, localnet: {network_name: public}}]
    routers:
      lr0:
        ports:
          - {name: lr0-sw0, mac: "52:54:00:00:00:01", gateway_ip: 10.0.0.1/24, switch: sw0}
          - {name: lr0-sw1, mac: "52:54:00:00:00:02", gateway_ip: 10.0.1.1/24, switch: sw1}
          - {name: lr0-public, mac: "52:54:00:00:00:03", gateway_ip: 172.16.1.200/24, switch: public, set_gateway_chassis: main}
        static_routes: [{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}]
        nat: [{nat_type: snat, external_ip: 172.16.1.200, logical_ip: 10.0.0.0/16}]
        dhcp: [{switch: sw1}]
    acl:
      switches:
        sw0:
          - {direction: to-lport, priority: 100, match: tcp.dst == 80, action: allow-related}
"""  # noqa: E501 (as users write it)


def _ovn(*edits: tuple[str, str]) -> Example:
    text = NETWORK
    for old, new in edits:
        if old not in text:
            raise ValueError(f"no {old!r} to be replaced")
        text = text.replace(old, new, 1)
    return Example(yaml=((BASE, text),))


_ROUTE = "{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}"
_NAT = "{nat_type: snat, external_ip: 172.16.1.200, logical_ip: 10.0.0.0/16}"
_RULE = "{direction: to-lport, priority: 100, match: tcp.dst == 80, action: allow-related}"

OVN_CODES: dict[str, tuple[str, Example | None]] = {
    "no-counterpart": (
        "A warning of `convert`: logical switches do not have this, or it becomes something else.",
        Example(
            yaml=(("{name: br0}", "{name: br0, controller: 'tcp:192.0.2.1:6653'}"),),
            argv=("convert", "-o", "ovn.yaml"),
        ),
    ),
    "not-bridges": (
        "`convert` needs a testbed with bridges.",
        Example(yaml=((BASE, NETWORK),), argv=("convert", "-o", "ovn.yaml")),
    ),
    "shared-by-alias": (
        "An alias repeats interfaces, and `convert` would have to write them differently in the two places.",
        Example(
            yaml=(
                ("interfaces: [{bridge: br0}]", "interfaces: &nics [{bridge: br0, ip: dynamic}]"),
                ("interfaces: [{bridge: br1}]", "interfaces: *nics"),
                ("  external_bridge: br0\n", ""),
            ),
            argv=("convert", "-o", "ovn.yaml"),
        ),
    ),
    "bad-match": (
        (
            "The `match` of a rule is not an expression of OVN, or names a port that the switch does not "
            "have. OVN itself would only log that, and ignore the rule. A warning for an address in single "
            "quotes, which are left out."
        ),
        _ovn(("match: tcp.dst == 80", "match: tcp.dst = 80")),
    ),
    "bad-range": (
        "A range ends before it begins, or has not one address for each clone.",
        _ovn(("ip_type: dynamic", "ip_type: {ip_range: {from: 10.0.1.10, to: 10.0.1.20}}")),
    ),
    "duplicate-dhcp": (
        "A switch has DHCP already.",
        _ovn(("[{switch: sw1}]", "[{switch: sw1}, {switch: sw1}]")),
    ),
    "duplicate-nat": (
        "A router translates an address already.",
        _ovn((_NAT, f"{_NAT}, {_NAT}")),
    ),
    "duplicate-route": ("A router has a route twice.", _ovn((_ROUTE, f"{_ROUTE}, {_ROUTE}"))),
    "duplicate-rule": (
        "Two rules of a switch have the same direction, priority and match: only one of them counts.",
        _ovn((_RULE, f"{_RULE}\n          - {_RULE.replace('allow-related', 'drop')}")),
    ),
    "ignored-key": (
        "A warning: files of the existing system have this key, and nothing uses it.",
        Example(
            yaml=((BASE, NETWORK),),
            config=(
                (
                    CONFIG.splitlines()[3],
                    CONFIG.splitlines()[3].replace(
                        "}", ', "ovn": {"client_ovn_remote": "tcp:192.0.2.11:6642"}}'
                    ),
                ),
            ),
        ),
    ),
    "linked-twice": (
        "A router has two ports on one switch.",
        _ovn(("gateway_ip: 10.0.1.1/24, switch: sw1", "gateway_ip: 10.0.0.2/24, switch: sw0")),
    ),
    "nat-without-gateway": (
        (
            "A warning: a router translates addresses where packets pass a port that one host carries. "
            "Without `set_gateway_chassis` it has no such port, and OVN ignores the entries of `nat`."
        ),
        _ovn((", set_gateway_chassis: main", "")),
    ),
    "no-dhcp": (
        (
            "A warning: the address is `dynamic`, but there is no DHCP on the switch. A guest with "
            "cloud-init has a derived address in its seed; any other has to set it itself."
        ),
        _ovn(("        dhcp: [{switch: sw1}]\n", "")),
    ),
    "one-way-rules": (
        "A warning: with `apply_deny_all` and without a rule `from-lport`, guests can send only replies.",
        _ovn(("    acl:\n", "    acl:\n      apply_deny_all: true\n")),
    ),
    "overlapping-subnets": (
        "The subnets of two switches of a router overlap.",
        _ovn(("sw0: {subnet: 10.0.0.0/24}", "sw0: {subnet: 10.0.0.0/20}"), ("10.0.0.1/24", "10.0.0.1/20")),
    ),
    "unknown-network": (
        "A provider network that no host has in `bridge_mappings`, or that a switch does not lead to.",
        _ovn(("network_name: public", "network_name: campus")),
    ),
    "unknown-next-hop": (
        (
            "Nothing has the address of a gateway or of a route's next router. A warning if that is in no "
            "subnet of the router: OVN ignores the route."
        ),
        _ovn((_ROUTE, "{prefix: 10.9.0.0/16, nexthop: 10.0.1.9}")),
    ),
    "unknown-switch": (
        "A name that is not that of a logical switch.",
        _ovn(("switch: sw0, ip", "switch: sw9, ip")),
    ),
    "unreachable-address": (
        "A warning: an external address is in no subnet that a gateway is on.",
        _ovn((_NAT, _NAT.replace("172.16.1.200", "172.16.9.1"))),
    ),
    "useless-route": (
        "A warning: the next router of a route is the router itself.",
        _ovn((_ROUTE, "{prefix: 10.0.0.0/24, nexthop: 10.0.0.1}")),
    ),
}
