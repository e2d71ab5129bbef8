"""The rows that a network of OVN is made of."""

from __future__ import annotations

import copy
import ipaddress
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ovn_labs import DHCP, SNAT, WEB_RULE, compiled, lab, machine

from golden.memory import SCHEMAS, compile_text, host
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.northbound import Row, RowRef
from kvmcompose.core.state import State, encode_state
from kvmcompose.networks import dialect
from kvmcompose.networks.ovn import northbound
from kvmcompose.pipeline.stored import read_state
from random_cases import cases

WEB = machine("web", 1)
Rows = dict[RowRef, Row]


def rows_of(text: str) -> Rows:
    found = northbound(compiled(text).state)
    rows = {row.ref: row for row in found}
    assert len(rows) == len(found)
    return rows


def changed(before: Rows, after: Rows) -> set[str]:
    """Return the rows that were added, removed or changed."""
    return {
        f"{ref.table} {ref.name}" for ref in before.keys() | after.keys() if before.get(ref) != after.get(ref)
    }


def port(rows: Rows, name: str) -> Row:
    return rows[RowRef("Logical_Switch_Port", name)]


def test_rows_refer_to_rows() -> None:
    rows = rows_of(lab(WEB + machine("db", 2, "dynamic"), dhcp=DHCP, acl=WEB_RULE))
    seen: set[RowRef] = set()
    for row in rows.values():
        assert row.parent is None or row.parent in seen  # a parent comes first
        seen.add(row.ref)
        for value in row.columns.values():
            for each in value if isinstance(value, tuple) else (value,):
                assert not isinstance(each, RowRef) or each in rows


def test_a_guest_s_port_is_named_by_its_row_for_libvirt() -> None:
    state = compiled(lab(WEB)).state
    row = port({each.ref: each for each in northbound(state)}, "web network[0]")
    assert (
        row.columns["name"]
        == str(row.ref.uuid("lab"))
        == state.testbed_guests["web"].interfaces[0].interface_id
    )
    assert row.columns["addresses"] == ("00:00:00:00:00:01 10.0.0.10",)


@pytest.mark.parametrize(
    ("edited", "wanted"),
    [
        (
            lab(
                WEB,
                acl=WEB_RULE.replace(
                    "[{", "[{direction: to-lport, priority: 9, match: arp, action: drop}, {"
                ),
            ),
            {"ACL sw0 to-lport 9 arp"},
        ),
        (lab(WEB, acl=WEB_RULE.replace("allow-related", "drop")), {"ACL sw0 to-lport 100 tcp.dst == 80"}),
        (lab(WEB + machine("db", 2), acl=WEB_RULE), {"Logical_Switch_Port db network[0]", "DNS sw0"}),
        (
            lab(
                WEB,
                nat=(SNAT, "{nat_type: dnat_and_snat, external_ip: 172.16.1.9, logical_ip: 10.0.0.10}"),
                acl=WEB_RULE,
            ),
            {"NAT lr0 dnat_and_snat 172.16.1.9 10.0.0.10"},
        ),
        (
            lab(
                WEB,
                routes=(
                    "{prefix: 10.7.0.0/16, nexthop: 10.0.0.10}",
                    "{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}",
                ),
                acl=WEB_RULE,
            ),
            {"Logical_Router_Static_Route lr0 10.7.0.0/16 via 10.0.0.10"},
        ),
        (lab(WEB, dhcp=DHCP, acl=WEB_RULE), {"DHCP_Options sw0 10.0.0.0/24"}),
    ],
)
def test_an_edit_changes_the_rows_of_what_is_edited_and_no_others(edited: str, wanted: set[str]) -> None:
    assert changed(rows_of(lab(WEB, acl=WEB_RULE)), rows_of(edited)) == wanted


def test_a_guest_keeps_its_port_on_another_switch_and_under_another_name() -> None:
    switches = "sw0: {subnet: 10.0.0.0/24}\n      sw1: {subnet: 10.0.1.0/24}"
    text = "  - {name: web, id: old, network: {switch: sw0}, docker: {image: x}}\n"
    before = rows_of(lab(text, switches=switches))
    after = rows_of(lab(text.replace("sw0", "sw1").replace("name: web", "name: www"), switches=switches))
    one, other = (port(rows, "old network[0]") for rows in (before, after))
    assert one.columns["name"] == other.columns["name"]
    assert (one.parent, other.parent) == (RowRef("Logical_Switch", "sw0"), RowRef("Logical_Switch", "sw1"))


def test_an_address_by_dhcp_is_known_before_it_is_given() -> None:
    rows = rows_of(lab(machine("web", 1, "dynamic"), dhcp=DHCP))
    row = port(rows, "web network[0]")
    mac, ip = str(row.columns["addresses"][0]).split()  # type: ignore[index]
    assert mac == "00:00:00:00:00:01"
    assert ipaddress.ip_address("10.0.0.20") < ipaddress.ip_address(ip) < ipaddress.ip_address("10.0.0.255")
    assert row.columns["dhcpv4_options"] == RowRef("DHCP_Options", "sw0 10.0.0.0/24")
    assert rows[RowRef("DNS", "sw0")].columns["records"] == {"web": ip, "web.lab": ip, "lab-web": ip}


def test_dynamic_is_static_in_the_family_that_the_router_has_not() -> None:
    switches = 'sw0: {subnet: [10.0.0.0/24, "fd00::/64"]}'
    state = compiled(lab(machine("web", 1, "dynamic"), dhcp=DHCP, switches=switches)).state
    [nic] = state.testbed_guests["web"].interfaces
    assert (nic.ip, len(nic.leases)) == ("dynamic", 1)
    assert str(nic.ipv6).startswith("fd00::")
    assert read_state(encode_state(state), SCHEMAS) is not None


def test_ports_in_matches_are_translated() -> None:
    acl = WEB_RULE.replace("tcp.dst == 80", 'outport == {"web", "lr0-sw0"} && inport == "lab-sw0-web-0"')
    rows = rows_of(lab(WEB, acl=acl.replace("match: ", "match: '").replace(", action", "', action")))
    [rule] = [row for row in rows.values() if row.ref.table == "ACL"]
    name = port(rows, "web network[0]").columns["name"]
    assert rule.columns["match"] == f'outport == {{"{name}", "lab-lr0-sw0"}} && inport == "{name}"'


ALONE = "sw0: {subnet: 10.0.0.0/24}\n      alone: {subnet: 10.9.0.0/24}"
ISOLATED = "  - {name: %s, network: [{switch: alone}], docker: {image: x}}\n"


def test_guests_on_a_switch_without_a_router_have_an_address_to_ask_for_names() -> None:
    text = lab(WEB + ISOLATED % "left" + ISOLATED % "right", switches=ALONE)
    state = compiled(text).state
    asked = [state.testbed_guests[name].interfaces[0].nameservers for name in ("left", "right")]
    assert asked == [("10.9.0.254",)] * 2
    rows = rows_of(text)
    row = port(rows, "resolver alone")
    mac, ip = str(row.columns["addresses"][0]).split()  # type: ignore[index]
    assert (row.columns["type"], ip) == ("localport", "10.9.0.254")  # OVN answers ARP for it
    assert not any(mac in str(each.columns.get("addresses")) for each in rows.values() if each != row)
    assert "resolver sw0" not in {ref.name for ref in rows}
    assert read_state(encode_state(state), SCHEMAS) is not None
    # one guest more moves nobody, and one that has an address of the YAML keeps it
    more = lab(WEB + "".join(ISOLATED % name for name in ("left", "right", "third")), switches=ALONE)
    assert changed(rows, rows_of(more)) == {"DNS alone", "Logical_Switch_Port third network[0]"}
    last = ISOLATED % "left" + (ISOLATED % "right").replace("alone}", "alone, ip: 10.9.0.254}")
    assert "10.9.0.253" in str(port(rows_of(lab(WEB + last, switches=ALONE)), "resolver alone").columns)


def test_a_guest_with_another_resolver_asks_that_one_alone() -> None:
    both = (ISOLATED % "both").replace("{switch: alone}", "{switch: alone}, {switch: sw0, gateway: 10.0.0.1}")
    state = compiled(lab(WEB + both, switches=ALONE)).state
    assert [nic.nameservers for nic in state.testbed_guests["both"].interfaces] == [(), ("1.1.1.1",)]


def test_a_switch_that_is_full_has_no_address_to_ask() -> None:
    full = "".join(ISOLATED % f"g{number}" for number in range(5))
    switches = ALONE.replace("10.9.0.0/24", "10.9.0.0/29")
    state = compiled(lab(WEB + full, switches=switches)).state
    assert [nic.nameservers for nic in state.testbed_guests["g0"].interfaces] == [()]


def test_what_does_not_fit_into_tunnels_is_answered_at_the_gateway() -> None:
    rows = rows_of(lab(WEB))
    ports = {ref.name: row for ref, row in rows.items() if ref.table == "Logical_Router_Port"}
    options = {name: row.columns.get("options") for name, row in ports.items()}
    assert options == {"lr0-sw0": None, "lr0-public": {"gateway_mtu": "1442"}}


def test_names_resolve_on_switches_that_routers_connect_and_on_no_others() -> None:
    switches = "sw0: {subnet: 10.0.0.0/24}\n      alone: {subnet: 10.9.0.0/24}"
    both = (
        "  - {name: both, network: [{switch: alone}, {switch: sw0}, {switch: public}], docker: {image: x}}\n"
    )
    rows = rows_of(lab(WEB + both, switches=switches))
    known = {
        name: {ref.name for ref in rows[RowRef("Logical_Switch", name)].columns["dns_records"]}  # type: ignore[union-attr]
        for name in ("sw0", "alone", "public")
    }
    assert known == {"sw0": {"sw0"}, "alone": {"alone"}, "public": {"sw0"}}
    records = rows[RowRef("DNS", "sw0")].columns["records"]
    assert isinstance(records, dict)
    assert len(records["both"].split()) == 2  # on sw0 and public, not on what nobody there reaches


def test_deny_all_leaves_ports_of_routers_alone() -> None:
    rows = rows_of(lab(WEB, acl="{apply_deny_all: true}"))
    rules = [row.columns for row in rows.values() if row.ref.name.startswith("sw0 apply_deny_all")]
    drops = [
        (each["direction"], each["priority"], each["match"]) for each in rules if each["action"] == "drop"
    ]
    assert drops == [("from-lport", 0, "1"), ("to-lport", 0, "1")]
    assert {str(each["match"]) for each in rules if each["action"] == "allow-stateless"} == {
        'inport == {"lab-lr0-sw0"}',
        'outport == {"lab-lr0-sw0"}',
    }


SUBNETS = (["10.0.0.0/24"], ["10.0.1.0/28"], ["10.0.2.0/24", "fd00:2::/64"], ["fd00:3::/120"])


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    """Switches of each family, all on one router, some with DHCP, and guests with and without addresses."""
    names = [f"s{number}" for number in range(len(SUBNETS))]
    ports = [
        {
            "name": f"r-{name}",
            "mac": f"52:54:00:ff:00:{number:02x}",
            "gateway_ip": [
                str(ipaddress.ip_network(each)[1]) + "/" + each.partition("/")[2] for each in subnets
            ],
            "switch": name,
        }
        for number, (name, subnets) in enumerate(zip(names, SUBNETS, strict=True))
    ]
    served = draw(st.lists(st.sampled_from(names), unique=True))
    machines = []
    for number in range(draw(st.integers(1, 8))):
        on = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        nics = [
            {"switch": each, **({"ip": "dynamic"} if each in served and draw(st.booleans()) else {})}
            for each in on
        ]
        machines.append({"name": f"g{number}", "network": nics, "docker": {"image": "x"}})
    switches = {name: {"subnet": subnets} for name, subnets in zip(names, SUBNETS, strict=True)}
    routers = {"r": {"ports": ports, "dhcp": [{"switch": each} for each in served]}}
    acl = {"apply_deny_all": draw(st.booleans())}
    return {"machines": machines, "network": {"ovn": {"switches": switches, "routers": routers, "acl": acl}}}


def state_of(document: dict[str, Any], count: int = 2) -> State:
    hosts = tuple(host(f"h{each}", f"192.0.2.{each + 1}", main=each == 0) for each in range(count))
    return compile_text(yaml.safe_dump(document), on=hosts).state


@cases(60)
@given(document=networks())
def test_addresses_are_in_their_subnets_and_unique(document: dict[str, Any]) -> None:
    state = state_of(document)
    taken: set[tuple[str, str]] = set()
    macs = [nic.mac for guest in state.testbed_guests.values() for nic in guest.interfaces]
    assert len(set(macs)) == len(macs)
    for guest in state.testbed_guests.values():
        for nic in guest.interfaces:
            subnets = [ipaddress.ip_network(each) for each in state.network.switches[nic.bridge].subnet]
            assert len(nic.addresses) == len(subnets)
            for ip, subnet in zip(nic.addresses, subnets, strict=True):
                address = ipaddress.ip_address(ip)
                assert address in subnet
                assert address not in (subnet[0], subnet[1])
                assert subnet.version == 6 or address != subnet.broadcast_address
                assert (nic.bridge, ip) not in taken
                taken.add((nic.bridge, ip))


@cases(40)
@given(document=networks())
def test_a_state_that_is_read_back_is_accepted_and_gives_the_same_rows(document: dict[str, Any]) -> None:
    state = state_of(document)
    again = read_state(encode_state(state), SCHEMAS)
    assert northbound(again) == northbound(state)
    assert encode_state(again) == encode_state(state)


@settings(max_examples=25, deadline=None)
@given(document=networks())
def test_another_guest_changes_no_row_but_its_own_and_names(document: dict[str, Any]) -> None:
    """Where two guests derive one address, the one before in the file has it: so the new one is last."""
    before = {row.ref: row for row in northbound(state_of(document))}
    more = copy.deepcopy(document)
    more["machines"].append({"name": "new", "network": [{"switch": "s0"}], "docker": {"image": "x"}})
    after = {row.ref: row for row in northbound(state_of(more))}
    refs = {ref for ref in before.keys() | after.keys() if before.get(ref) != after.get(ref)}
    switches = {f"s{number}" for number in range(len(SUBNETS))}
    assert RowRef("Logical_Switch_Port", "new network[0]") in refs
    for ref in refs - {RowRef("Logical_Switch_Port", "new network[0]")}:
        # the first guest of a switch brings its names to the others
        assert ref.table in ("DNS", "Logical_Switch")
        assert ref.name in switches


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [each for key, item in value.items() for each in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [each for index, item in enumerate(value) for each in leaves(item, (*path, index))]
    return [path]


#: What a user may write as it is. The MAC address of a port with DHCP is there twice.
FREE = {
    "match",
    "action",
    "direction",
    "priority",
    "apply_deny_all",
    "provider_network_name",
    "prefix",
    "nexthop",
    "nameservers",
    "external_ip",
    "logical_ip",
    "lr0-public",
}


def test_no_value_of_the_state_can_be_another_one() -> None:
    """Each value of the network, and of interfaces, is checked, or changes nothing but the guest itself."""
    text = lab(
        WEB + machine("db", 2, "dynamic"),
        dhcp=DHCP,
        acl=WEB_RULE,
        switches="sw0: {subnet: 10.0.0.0/24, ports: [{name: own, internal: {ip: 10.0.0.250, "
        'mac: "52:54:00:00:00:01"}}]}',
    )
    document = json.loads(encode_state(compiled(text).state))
    checked = [path for path in leaves(document["network"], ("network",)) if not FREE & set(path)]
    checked += [
        path
        for path in leaves(document["testbed_guests"], ("testbed_guests",))
        if "interfaces" in path and path[-1] not in ("mac", "gateway") and not FREE & set(path)
    ]
    accepted = []
    for path in checked:
        edited = copy.deepcopy(document)
        place = edited
        for step in path[:-1]:
            place = place[step]
        old = place[path[-1]]
        place[path[-1]] = other(old)
        try:
            read_state(json.dumps(edited).encode(), SCHEMAS)
        except KvmComposeError:
            continue
        accepted.append(path)
    assert accepted == []


def other(value: Any) -> Any:
    """Return another value of the same form."""
    if isinstance(value, int):
        return value + 1
    if value is None:
        return "lab-x"
    if ":" in str(value) and str(value).count(":") == 5:
        return "52:54:00:aa:aa:aa"
    return {"10.": "10.99.99.9", "172": "172.99.9.9"}.get(str(value)[:3], f"{value}x")


def test_the_artefact_shows_rows_by_name() -> None:
    compiled_lab = compiled(lab(WEB, acl=WEB_RULE))
    [artefact] = dialect("ovn").artefacts(compiled_lab.state)
    assert artefact.path == "artefacts/lab-network.json"
    shown = json.loads(artefact.content.data)  # type: ignore[union-attr]
    assert shown["ACL"]["sw0 to-lport 100 tcp.dst == 80"] == {
        "in": "Logical_Switch sw0",
        "action": "allow-related",
        "direction": "to-lport",
        "match": "tcp.dst == 80",
        "priority": 100,
    }
    assert shown["Logical_Switch"]["sw0"] == {"dns_records": ["sw0"], "name": "lab-sw0"}


WRONG: list[Any] = [
    None,
    "",
    "x",
    "10.0.0.0/33",
    "fd00::1",
    "010.0.0.1",
    0,
    -1,
    True,
    [],
    {},
    ["x"],
    {"x": 1},
]


@cases(100)
@given(data=st.data())
def test_a_state_that_was_tampered_with_is_accepted_or_refused(data: st.DataObject) -> None:
    """Whatever it contains, there is no other error, and what is accepted can be used."""
    document = copy.deepcopy(TAMPERED)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(leaves(document["network"], ("network",))))
        path = path[: data.draw(st.integers(2, len(path)))] if len(path) > 1 else path
        place = document
        for step in path[:-1]:
            place = place[step]
        if data.draw(st.booleans()) and isinstance(place, dict):
            place[data.draw(st.sampled_from(["x", "sw0", "lr0"]))] = place.pop(path[-1])
        else:
            place[path[-1]] = data.draw(st.sampled_from(WRONG))
    try:
        state = read_state(json.dumps(document).encode(), SCHEMAS)
    except KvmComposeError:
        return
    northbound(state)
    list(dialect("ovn").privileges(state, for_member=True))


TAMPERED = json.loads(
    encode_state(
        compiled(
            lab(
                WEB + machine("db", 2, "dynamic"),
                dhcp=DHCP,
                acl=WEB_RULE,
                switches='sw0: {subnet: [10.0.0.0/24, "fd00::/64"], ports: [{name: own, '
                'internal: {ip: 10.0.0.250, mac: "52:54:00:00:00:01"}}]}',
            )
        ).state
    )
)
