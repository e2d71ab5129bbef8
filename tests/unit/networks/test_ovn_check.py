"""What OVN would only log, or leave without effect, is refused where it is written."""

from __future__ import annotations

import pytest
from ovn_labs import CLOUD, DEFAULT, DHCP, PUBLIC, SNAT, SW0, SW1, codes, compiled, lab, machine, problems

WEB = machine("web", 1)
BOTH = "sw0: {subnet: 10.0.0.0/24}\n      sw1: {subnet: 10.0.1.0/24}"
ROUTER = "network.ovn.routers.lr0"
IP = "machines[0].network.ip"


def nic(*entries: str) -> str:
    """Return a machine with these interfaces."""
    return f"  - name: web\n    network: [{', '.join(entries)}]\n    {CLOUD}\n"


def rules(*entries: str, deny: bool = False) -> str:
    parts = [each.split("|") for each in entries]
    text = ", ".join(
        f"{{direction: {direction}, priority: {priority}, match: '{match}', action: {action}}}"
        for direction, priority, match, action in parts
    )
    return f"{{apply_deny_all: {str(deny).lower()}, switches: {{sw0: [{text}]}}}}"


CASES: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "fine": (lab(WEB), []),
    # addresses
    "outside": (lab(machine("web", 1, "10.0.9.1")), [("address-outside-subnet", IP)]),
    "network address": (lab(machine("web", 1, "10.0.0.0")), [("reserved-address", IP)]),
    "broadcast": (lab(machine("web", 1, "10.0.0.255")), [("reserved-address", IP)]),
    "prefix length": (lab(machine("web", 1, "10.0.0.5/24")), [("bad-address", IP)]),
    "no address": (lab(machine("web", 1, "10.0.0")), [("bad-address", IP)]),
    "zone": (
        lab(machine("web", 1, r'"fd00::5%a\nb"'), switches='sw0: {subnet: [10.0.0.0/24, "fd00::/64"]}'),
        [("bad-address", IP)],
    ),
    "zone of an interface": (
        lab(
            WEB,
            switches="sw0: {subnet: ['fd00::/64', 10.0.0.0/24], ports: [{name: probe, internal: "
            r'{ip: "fd00::5%x dev lo\nnetns exec a b", mac: "00:00:00:00:00:77"}}]}',
        ),
        [("bad-address", "network.ovn.switches.sw0.ports[0].internal.ip")],
    ),
    "zone of a subnet": (
        lab(WEB, switches='sw0: {subnet: [10.0.0.0/24, "fd00::%x y/64"]}'),
        [("bad-address", "network.ovn.switches.sw0.subnet")],
    ),
    "zone of a route": (
        lab(WEB, routes=(DEFAULT, '{prefix: "fd00:9::%x/64", nexthop: "fd00::9%y"}')),
        [
            ("bad-address", f"{ROUTER}.static_routes[1].prefix"),
            ("bad-address", f"{ROUTER}.static_routes[1].nexthop"),
        ],
    ),
    "another family": (lab(machine("web", 1, '"fd00::1"')), [("address-outside-subnet", IP)]),
    "router's": (lab(machine("web", 1, "10.0.0.1")), [("duplicate-address", IP)]),
    "twice": (
        lab(WEB + machine("db", 2, "10.0.0.10")),
        [("duplicate-address", "machines[1].network.ip")],
    ),
    "of the host's bridge": (
        lab(nic("{switch: public, ip: 172.16.1.1}")),
        [("duplicate-address", "machines[0].network[0].ip")],
    ),
    "of the host's bridge, by NAT": (
        lab(WEB, nat=(SNAT.replace("172.16.1.200", "172.16.1.1"),)),
        [("duplicate-address", f"{ROUTER}.nat[0].external_ip")],
    ),
    "of NAT": (
        lab(
            nic("{switch: public, ip: 172.16.1.11}"),
            nat=(SNAT, "{nat_type: dnat_and_snat, external_ip: 172.16.1.11, logical_ip: 10.0.0.10}"),
        ),
        [("duplicate-address", "machines[0].network[0].ip")],
    ),
    "two of one family": (
        lab(nic("{switch: sw0, ip: [10.0.0.5, 10.0.0.6]}")),
        [("bad-address", "machines[0].network[0].ip")],
    ),
    "dynamic and static": (
        lab(nic("{switch: sw0, ip: [10.0.0.5, dynamic]}"), dhcp=DHCP),
        [("bad-address", "machines[0].network[0].ip")],
    ),
    "dynamic without DHCP": (lab(machine("web", 1, "dynamic")), [("no-dhcp", IP)]),
    "mac twice": (
        lab(WEB + machine("db", 1, "10.0.0.11")),
        [("duplicate-mac", "machines[1].network.mac")],
    ),
    "mac of a router": (
        lab(nic('{switch: sw0, mac: "00:00:00:00:ff:01"}')),
        [("duplicate-mac", "machines[0].network[0].mac")],
    ),
    "multicast mac": (
        lab(nic('{switch: sw0, mac: "01:00:00:00:00:01"}')),
        [("bad-mac", "machines[0].network[0].mac")],
    ),
    "gateway nobody has": (
        lab(nic("{switch: sw0, gateway: 10.0.0.9}")),
        [("unknown-next-hop", "machines[0].network[0].gateway")],
    ),
    "gateway elsewhere": (
        lab(nic("{switch: sw0, gateway: 10.9.0.1}")),
        [("address-outside-subnet", "machines[0].network[0].gateway")],
    ),
    "unknown switch": (lab(nic("{switch: sw1}")), [("unknown-switch", "machines[0].network[0].switch")]),
    "no interface": (lab(f"  - name: web\n    {CLOUD}\n"), [("no-interface", "machines[0]")]),
    "provider network": (
        lab(nic("{switch: sw0, network_name: public}")),
        [("unknown-network", "machines[0].network[0].network_name")],
    ),
    # switches
    "host bits": (
        lab(WEB, switches="sw0: {subnet: 10.0.0.5/24}"),
        [("bad-address", "network.ovn.switches.sw0.subnet")],
    ),
    "too small": (
        lab(WEB, switches="sw0: {subnet: 10.0.0.0/31}"),
        [("bad-address", "network.ovn.switches.sw0.subnet")],
    ),
    "two of one family on a switch": (
        lab(WEB, switches="sw0: {subnet: [10.0.0.0/24, 10.1.0.0/24]}"),
        [("two-subnets", "network.ovn.switches.sw0.subnet")],
    ),
    "two provider networks": (
        lab(
            WEB,
            switches="sw0: {subnet: 10.0.0.0/24, ports: [{name: p1, localnet: {network_name: public}}, "
            "{name: p2, localnet: {network_name: public}}]}",
        ),
        [("too-many", "network.ovn.switches.sw0.ports[1]")],
    ),
    "unknown provider network": (
        lab(WEB, switches="sw0: {subnet: 10.0.0.0/24, ports: [{name: p1, localnet: {network_name: far}}]}"),
        [("unknown-network", "network.ovn.switches.sw0.ports[0].localnet.network_name")],
    ),
    "host's port outside": (
        lab(
            WEB,
            switches="sw0: {subnet: 10.0.0.0/24, ports: [{name: p1, chassis: far, "
            'internal: {ip: 10.1.0.9, mac: "52:54:00:00:00:01"}}]}',
        ),
        [
            ("unknown-host", "network.ovn.switches.sw0.ports[0].chassis"),
            ("address-outside-subnet", "network.ovn.switches.sw0.ports[0].internal.ip"),
        ],
    ),
    "port name twice": (
        lab(
            WEB,
            switches="sw0: {subnet: 10.0.0.0/24, ports: [{name: lr0-sw0, internal: {ip: 10.0.0.7, "
            'mac: "52:54:00:00:00:01"}}]}',
        ),
        [("duplicate-name", f"{ROUTER}.ports[0].name")],
    ),
    # routers
    "linked twice": (
        lab(WEB, ports=(SW0, SW0.replace("lr0-sw0", "lr0-x").replace("ff:01", "ff:09"), PUBLIC)),
        [("linked-twice", f"{ROUTER}.ports[1].switch")],
    ),
    "prefix missing": (
        lab(WEB, ports=(SW0.replace("/24", ""), PUBLIC)),
        [("bad-address", f"{ROUTER}.ports[0].gateway_ip")],
    ),
    "another prefix": (
        lab(WEB, ports=(SW0.replace("/24", "/16"), PUBLIC)),
        [("bad-address", f"{ROUTER}.ports[0].gateway_ip")],
    ),
    "unknown chassis": (
        lab(WEB, ports=(SW0, PUBLIC.replace("master", "far"))),
        [("unknown-host", f"{ROUTER}.ports[1].set_gateway_chassis")],
    ),
    "overlap": (
        lab(
            WEB,
            ports=(SW0, SW1.replace("10.0.1.1/24", "10.0.0.129/25"), PUBLIC),
            switches="sw0: {subnet: 10.0.0.0/24}\n      sw1: {subnet: 10.0.0.128/25}",
        ),
        [("overlapping-subnets", f"{ROUTER}.ports[1].switch")],
    ),
    "next hop nobody has": (
        lab(WEB, routes=(DEFAULT, "{prefix: 10.5.0.0/16, nexthop: 10.0.0.99}")),
        [("unknown-next-hop", f"{ROUTER}.static_routes[1].nexthop")],
    ),
    "next hop is a guest": (lab(WEB, routes=(DEFAULT, "{prefix: 10.5.0.0/16, nexthop: 10.0.0.10}")), []),
    "next hop elsewhere": (
        lab(WEB, routes=("{prefix: 10.5.0.0/16, nexthop: 10.7.0.1}",)),
        [("unknown-next-hop", f"{ROUTER}.static_routes[0].nexthop")],
    ),
    "route to itself": (
        lab(WEB, routes=(DEFAULT, "{prefix: 10.0.0.0/24, nexthop: 10.0.0.1}")),
        [("useless-route", f"{ROUTER}.static_routes[1].nexthop")],
    ),
    "route twice": (lab(WEB, routes=(DEFAULT, DEFAULT)), [("duplicate-route", f"{ROUTER}.static_routes[1]")]),
    "route of two families": (
        lab(WEB, routes=('{prefix: "::/0", nexthop: 172.16.1.1}',)),
        [("bad-address", f"{ROUTER}.static_routes[0].nexthop")],
    ),
    "NAT without a gateway": (
        lab(WEB, ports=(SW0, PUBLIC.replace(", set_gateway_chassis: master", ""))),
        [("nat-without-gateway", f"{ROUTER}.nat")],
    ),
    "NAT twice": (lab(WEB, nat=(SNAT, SNAT)), [("duplicate-nat", f"{ROUTER}.nat[1]")]),
    "NAT elsewhere": (
        lab(WEB, nat=(SNAT.replace("172.16.1.200", "192.0.2.77"),)),
        [("unreachable-address", f"{ROUTER}.nat[0].external_ip")],
    ),
    "DNAT of a subnet": (
        lab(WEB, nat=("{nat_type: dnat_and_snat, external_ip: 172.16.1.11, logical_ip: 10.0.0.0/24}",)),
        [("bad-address", f"{ROUTER}.nat[0].logical_ip")],
    ),
    "DHCP of another router": (
        lab(WEB, switches=BOTH, dhcp="[{switch: sw1}]"),
        [("unknown-switch", f"{ROUTER}.dhcp[0].switch")],
    ),
    "DHCP twice": (
        lab(WEB, dhcp="[{switch: sw0}, {switch: sw0}]"),
        [("duplicate-dhcp", f"{ROUTER}.dhcp[1].switch")],
    ),
    "excluded elsewhere": (
        lab(WEB, dhcp="[{switch: sw0, exclude_ips: {from: 10.0.0.1, to: 10.9.0.9}}]"),
        [("address-outside-subnet", f"{ROUTER}.dhcp[0].exclude_ips.to")],
    ),
    "excluded backwards": (
        lab(WEB, dhcp="[{switch: sw0, exclude_ips: {from: 10.0.0.9, to: 10.0.0.2}}]"),
        [("bad-range", f"{ROUTER}.dhcp[0].exclude_ips")],
    ),
    # rules
    "rule twice": (
        lab(WEB, acl=rules("to-lport|5|ip|drop", "to-lport|5| ip|allow")),
        [("duplicate-rule", "network.ovn.acl.switches.sw0[1]")],
    ),
    "another priority": (lab(WEB, acl=rules("to-lport|5|ip|drop", "to-lport|6|ip|allow")), []),
    "no port": (
        lab(WEB, acl=rules('to-lport|5|outport == "wbe"|drop')),
        [("bad-match", "network.ovn.acl.switches.sw0[0].match")],
    ),
    "a port by its names": (
        lab(
            WEB,
            acl=rules(
                'to-lport|5|outport == {"web", "sw0-web-0", "lab-sw0-web-0", "lr0-sw0"}|drop',
            ),
        ),
        [],
    ),
    "outport too early": (
        lab(WEB, acl=rules('from-lport|5|outport == "web"|drop')),
        [("bad-match", "network.ovn.acl.switches.sw0[0].match")],
    ),
    "priority of deny all": (
        lab(WEB, acl=rules("to-lport|1|ip|allow", "from-lport|2|ip|allow", deny=True)),
        [("out-of-range", "network.ovn.acl.switches.sw0[0].priority")],
    ),
    "one way": (
        lab(WEB, acl=rules("to-lport|10|ip|allow-related", deny=True)),
        [("one-way-rules", "network.ovn.acl.apply_deny_all")],
    ),
    "one way out": (lab(WEB, acl=rules("from-lport|10|ip|allow-related", deny=True)), []),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_what_is_wrong_is_reported_where_it_is_written(case: str) -> None:
    text, wanted = CASES[case]
    assert codes(text) == wanted


def test_a_project_s_name_in_a_match_must_be_its_own() -> None:
    found = codes(lab(WEB, acl=rules('to-lport|5|outport == "other-sw0-web-0"|drop')))
    assert found == [("bad-match", "network.ovn.acl.switches.sw0[0].match")]


def test_the_bad_match_is_quoted_with_what_to_write() -> None:
    [problem] = problems(lab(WEB, acl=rules("to-lport|5|ip4.src == 10.0.0.999|drop")))
    assert "10.0.0.999 is neither a number nor an address (at character 12)" in problem.message


def scaled(*, clones: str = "[0, 1]", ip: str = "dynamic", mac: str = "01|02", switch: str = "sw0") -> str:
    first, last = mac.split("|")
    macs = f'{{from: "00:00:00:00:00:{first}", to: "00:00:00:00:00:{last}"}}'
    return lab(
        f"  - name: c\n    {CLOUD[:-1]}, scaling: {{count: 2, interfaces: {{{switch}: {{clones: {clones}, "
        f"ip_type: {ip}, mac_range: {macs}}}}}}}}}\n",
        dhcp=DHCP,
    )


SCALING = "machines[0].libvirt.scaling.interfaces.sw0"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (scaled(), []),
        (scaled(mac="01|03"), [("bad-range", f"{SCALING}.mac_range")]),
        (scaled(mac="03|01"), [("bad-range", f"{SCALING}.mac_range")]),
        (scaled(ip="{ip_range: {from: 10.0.0.5, to: 10.0.0.6}}"), []),
        (
            scaled(ip="{ip_range: {from: 10.0.0.5, to: 10.0.0.9}}"),
            [("bad-range", f"{SCALING}.ip_type.ip_range")],
        ),
        (
            scaled(ip="{ip_range: {from: 10.0.0.254, to: 10.0.0.255}}"),
            [("reserved-address", f"{SCALING}.ip_type")],
        ),
        (
            scaled(ip="{ip_range: {from: 10.0.0.1, to: 10.0.0.2}}"),
            [("duplicate-address", f"{SCALING}.ip_type")],
        ),
        (scaled(switch="sw9"), [("unknown-switch", SCALING.replace("sw0", "sw9"))]),
        (
            scaled(clones="[0, 2]"),
            [
                ("clone-without-interface", SCALING.removesuffix(".sw0")),
                ("clone-out-of-range", f"{SCALING}.clones[1]"),
            ],
        ),
    ],
)
def test_ranges_of_clones(text: str, wanted: list[tuple[str, str]]) -> None:
    assert codes(text) == wanted


def test_the_hint_for_a_range_can_be_pasted() -> None:
    [problem] = problems(scaled(ip="{ip_range: {from: 10.0.0.5, to: 10.0.0.9}}"))
    assert problem.hint == "a range from 10.0.0.5 for them ends at 10.0.0.6"


def test_clones_get_the_addresses_of_their_range_in_order() -> None:
    text = scaled(clones="[1, 0]", ip="{ip_range: {from: 10.0.0.5, to: 10.0.0.6}}")
    guests = compiled(text).state.testbed_guests
    assert [(guests[name].interfaces[0].ip, guests[name].interfaces[0].mac) for name in ("c-0", "c-1")] == [
        ("10.0.0.6", "00:00:00:00:00:02"),
        ("10.0.0.5", "00:00:00:00:00:01"),
    ]
