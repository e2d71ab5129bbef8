"""Management ports of logical switches: which have one, addresses, rows, rules, and invalid states."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from ovn_labs import DHCP, SW0, compiled, lab, machine, problems

from golden.memory import SCHEMAS
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.northbound import Row
from kvmcompose.core.state import State, encode_state
from kvmcompose.networks import dialect
from kvmcompose.networks.ovn import northbound, row_path
from kvmcompose.pipeline.stored import read_state

GUESTS = machine("near", 1) + machine("far", 2, "dynamic") + machine("other", 3)
RULE = "{direction: to-lport, priority: %d, match: tcp, action: allow-related}"
PIN = "placement: {pin: {near: h0, far: h1, other: h0}}"


def text(management: str = "true", machines: str = GUESTS, **parts: Any) -> str:
    more = f"testbed_options: {{management: {management}{', ' + PIN if machines is GUESTS else ''}}}\n"
    return lab(machines, dhcp=parts.pop("dhcp", DHCP), **parts) + more


def state(management: str = "true", machines: str = GUESTS, **parts: Any) -> State:
    return compiled(text(management, machines, **parts)).state


def stored(given: State) -> State:
    return read_state(encode_state(given), SCHEMAS)


def plan(given: State) -> Any:
    return dialect("ovn").network_plan(stored(given))


def row_names(rows: tuple[Row, ...]) -> set[str]:
    return {str(row.ref) for row in rows}


def test_nothing_but_the_ports_is_added() -> None:
    off, on = (json.loads(encode_state(state(each))) for each in ("false", "true"))
    (port,) = on["network"].pop("management_ports")
    assert on == off
    assert "management_ports" not in off["network"]
    assert port["guests"] == ["near", "far", "other"]
    addresses = {
        each
        for guest in on["testbed_guests"].values()
        for nic in guest["interfaces"]
        for each in (nic["ip"], nic["gateway"], *nic.get("leases", ()))
    }
    assert port["ip"] not in addresses
    assert ipaddress.ip_address(port["ip"]) in ipaddress.ip_network("10.0.0.0/24")
    assert not 1 <= int(port["ip"].rpartition(".")[2]) <= 20  # DHCP leaves these to others


def test_each_guest_is_reached_by_the_port_on_its_host() -> None:
    found = plan(state())
    assert {name: (each.port.host, each.address) for name, each in found.management.items()} == {
        "near": ("h0", "10.0.0.10"),
        "far": ("h1", state().testbed_guests["far"].interfaces[0].leases[0]),  # by DHCP
        "other": ("h0", "10.0.0.12"),
    }
    assert [(each.host, each.bridge) for each in found.management_ports] == [
        ("h0", "br-int"),
        ("h1", "br-int"),
    ]
    assert len({(each.name, each.mac, each.address, each.namespace) for each in found.management_ports}) == 1
    (row,) = [
        each.spec
        for each in found.resources
        if each.ref.kind == "ovn-row" and each.spec.columns.get("type") == "localport"
    ]
    ends = [each for each in found.resources if each.ref.kind == "ovn-host-port"]
    assert {each.spec.interface_id for each in ends} == {row.columns["name"]}
    assert [each.needs[0].kind for each in ends] == ["management-port", "management-port"]


def test_exceptions_have_no_port() -> None:
    found = plan(state("{except: [far]}"))
    assert set(found.management) == {"near", "other"}
    assert [each.host for each in found.management_ports] == ["h0"]
    assert encode_state(state("{except: ['*']}")) == encode_state(state("false"))


@pytest.mark.parametrize(
    ("acl", "rules"),
    [("{}", 0), ("{apply_deny_all: true}", 2), (f"{{switches: {{sw0: [{RULE % 32766}]}}}}", 2)],
)
def test_rules_are_added_where_there_are_others(acl: str, rules: int) -> None:
    given = state(acl=acl)
    rows = northbound(given)
    added = [row for row in rows if row.ref.table == "ACL" and " management " in row.ref.name]
    assert len(added) == rules
    assert {row.columns["action"] for row in added} <= {"allow-stateless"}
    assert {row_path(compiled(text(acl=acl)).placed.logical.network, row.ref) for row in added} <= {
        ("testbed_options", "management")
    }
    without = northbound(state("false", acl=acl))
    assert northbound(given, management=False) == without
    assert len(row_names(rows) - row_names(without)) == rules + 1


def test_a_rule_of_the_highest_priority_is_refused() -> None:
    acl = f"{{switches: {{sw0: [{RULE % 5}, {RULE % 32767}]}}}}"
    (problem,) = problems(text(acl=acl))
    assert (problem.code, problem.path) == ("bad-value", "network.ovn.acl.switches.sw0[1].priority")
    assert problem.wanted == "at most 32766"
    assert problems(text("false", acl=acl)) == ()
    assert problems(text("{except: ['*']}", acl=acl)) == ()


def test_a_guest_without_an_ipv4_address_is_named() -> None:
    machines = machine("six", 1).replace("10.0.0.1,", '"fd00::1",').replace("ip: 10.0.0.10", 'ip: "fd00::5"')
    given = text(
        machines=machines,
        switches='sw0: {subnet: [10.0.0.0/24, "fd00::/64"]}',
        ports=(SW0.replace("10.0.0.1/24", '[10.0.0.1/24, "fd00::1/64"]'),),
        routes=(),
        nat=(),
        dhcp="[]",
    )
    (warning,) = problems(given)
    assert (warning.code, warning.path) == ("unmanaged-guest", "machines[0].network")
    assert "it has no IPv4 address" in warning.message
    assert plan(compiled(given).state).management == {}


def test_the_interface_with_an_ipv4_address_is_used() -> None:
    machines = (
        "  - name: both\n"
        "    network: [{switch: six}, {switch: sw0, gateway: 10.0.0.1, ip: 10.0.0.30}]\n"
        "    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}\n"
    )
    given = text(
        machines=machines,
        switches='sw0: {subnet: 10.0.0.0/24}\n      six: {subnet: "fd00:6::/64"}',
        dhcp="[]",
    )
    found = plan(compiled(given).state)
    assert found.management["both"].address == "10.0.0.30"
    assert found.management["both"].port.namespace.endswith(".sw0")


@pytest.mark.parametrize(("prefix", "room"), [(30, False), (29, True)])
def test_the_subnet_must_have_room(prefix: int, *, room: bool) -> None:
    given = text(
        machines=machine("web", 1, "10.0.0.2"),
        switches=f"sw0: {{subnet: 10.0.0.0/{prefix}}}",
        ports=(SW0.replace("/24", f"/{prefix}"),),
        routes=(),
        nat=(),
        dhcp="[]",
    )
    if room:
        assert plan(compiled(given).state).management["web"].port.address.endswith(f"/{prefix}")
        return
    (problem,) = problems(given)
    assert (problem.code, problem.path) == ("no-free-address", "network.ovn.switches.sw0.subnet")


def test_a_guest_takes_the_address_of_a_port_and_not_vice_versa() -> None:
    (before,) = state().network.management_ports
    (after,) = state(machines=GUESTS + machine("new", 4, before.ip)).network.management_ports
    assert (after.mac, after.port) == (before.mac, before.port)
    assert after.ip != before.ip


TAMPERED = [
    {"bridge": "public"},
    {"bridge": "other"},
    {"port": "eth0"},
    {"mac": "52:54:00:00:00:01"},
    {"ip": "10.0.0.10"},  # a guest's
    {"ip": "10.0.0.1"},  # the router's
    {"ip": "10.0.0.0"},
    {"ip": "10.0.0.255"},
    {"ip": "192.0.2.1"},
    {"ip": "999.0.0.1"},
    {"prefix_length": 8},
    {"guests": ["nobody"]},
    {"guests": []},
    {"guests": ["near", "near"]},
    {"namespace": "x"},
]


@pytest.mark.parametrize("change", TAMPERED, ids=str)
def test_a_state_that_no_build_wrote_is_refused(change: dict[str, Any]) -> None:
    given = json.loads(encode_state(state()))
    given["network"]["management_ports"][0] |= change
    with pytest.raises(KvmComposeError):
        read_state(json.dumps(given).encode(), SCHEMAS)


def test_the_address_of_a_lease_or_a_second_port_is_refused() -> None:
    given = json.loads(encode_state(state()))
    ports = given["network"]["management_ports"]
    ports[0]["ip"] = given["testbed_guests"]["far"]["interfaces"][0]["leases"][0]
    with pytest.raises(KvmComposeError, match="is the address of something else"):
        read_state(json.dumps(given).encode(), SCHEMAS)
    given = json.loads(encode_state(state()))
    given["network"]["management_ports"] *= 2
    with pytest.raises(KvmComposeError, match="needs no port, or has one"):
        read_state(json.dumps(given).encode(), SCHEMAS)
