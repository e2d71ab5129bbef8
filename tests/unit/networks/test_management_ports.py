"""Management ports: which guests need one, their addresses, and states that a build did not write."""

from __future__ import annotations

import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import SCHEMAS, compile_text
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.state import State, encode_state
from kvmcompose.networks import dialect
from kvmcompose.pipeline.stored import read_state

GUEST = "  - name: {name}\n    interfaces: [{interfaces}]\n    libvirt: {{cpus: 1, memory_mb: 64, {kind}}}\n"
KIND = "libvirt_type: {cloud_image: {name: debian_12}}"


def lab(
    guests: dict[str, str],
    bridges: str = "{name: home}, {name: lab}",
    management: str = "true",
    more: str = "",
) -> str:
    machines = "".join(
        GUEST.format(name=name, interfaces=interfaces, kind=KIND) for name, interfaces in guests.items()
    )
    network = f"network:\n  bridges: [{bridges}]\n  external_bridge: home\n{more}"
    return f"machines:\n{machines}{network}testbed_options: {{management: {management}}}\n"


def ports(state: State) -> dict[str, Any]:
    found = state.network.management_ports
    return {each.bridge: each for each in found} if found else {}


def plan(state: State) -> Any:
    stored = read_state(encode_state(state), SCHEMAS)
    return dialect(stored.network["dialect"]).network_plan(stored)


def test_a_testbed_without_isolated_guests_has_the_same_state() -> None:
    guests = {"web": "{bridge: home}", "both": "{bridge: lab}, {bridge: home}"}
    off, on = (encode_state(compile_text(lab(guests, management=each)).state) for each in ("false", "true"))
    assert on == off
    assert b"management" not in on


def test_nothing_but_the_ports_is_added_to_the_state() -> None:
    guests = {"web": "{bridge: home}", "cut": "{bridge: lab}", "other": "{bridge: lab}"}
    off, on = (
        json.loads(encode_state(compile_text(lab(guests, management=each)).state))
        for each in ("false", "true")
    )
    (port,) = on["network"].pop("management_ports")
    assert on == off
    assert port["guests"] == ["cut", "other"]
    nic = on["testbed_guests"]["cut"]["interfaces"][0]
    subnet = ipaddress.IPv4Network((nic["ip"], nic["prefix_length"]), strict=False)
    assert ipaddress.IPv4Address(port["ip"]) in subnet
    taken = {each["ip"] for guest in on["testbed_guests"].values() for each in guest["interfaces"]}
    assert port["ip"] not in taken


def test_every_bridge_has_its_own_also_where_bridges_are_connected() -> None:
    guests = {"one": "{bridge: lab}", "two": "{bridge: far}"}
    text = lab(guests, "{name: home}, {name: lab}, {name: far}", more="  bridge_connections: {lab: far}\n")
    found = ports(compile_text(text).state)
    assert found.keys() == {"lab", "far"}
    assert found["lab"].ip != found["far"].ip
    assert found["lab"].mac != found["far"].mac


def test_a_guest_takes_the_address_of_a_port_and_not_vice_versa() -> None:
    before = compile_text(lab({"cut": "{bridge: lab, ip: 10.9.0.7}"})).state
    ip = ports(before)["lab"].ip
    after = compile_text(
        lab({"cut": "{bridge: lab, ip: 10.9.0.7}", "new": f"{{bridge: lab, ip: {ip}}}"})
    ).state
    assert after.testbed_guests["new"].interfaces[0].ip == ip
    assert ports(after)["lab"].ip != ip
    assert ports(after)["lab"].mac == ports(before)["lab"].mac
    assert after.testbed_guests["cut"] == before.testbed_guests["cut"]


@pytest.mark.parametrize(("prefix", "room"), [(30, False), (29, True)])
def test_the_subnet_must_have_room(prefix: int, *, room: bool) -> None:
    text = lab({"cut": "{bridge: lab}"}, f"{{name: home}}, {{name: lab, subnet: 10.9.0.0/{prefix}}}")
    if room:
        assert ports(compile_text(text).state)["lab"].prefix_length == prefix
        return
    with pytest.raises(InputError) as caught:
        compile_text(text)
    (problem,) = caught.value.problems
    assert problem.code == "no-free-address"
    assert problem.path == "network.bridges[1].subnet"


def test_the_interface_with_a_known_address_is_used() -> None:
    guests = {"cut": "{bridge: lab, ip: dynamic}, {bridge: far}", "dyn": "{bridge: lab, ip: dynamic}"}
    compiled = compile_text(lab(guests, "{name: home}, {name: lab}, {name: far}"))
    assert {bridge: each.guests for bridge, each in ports(compiled.state).items()} == {"far": ("cut",)}
    (warning,) = compiled.warnings
    assert warning.code == "unmanaged-guest"
    assert warning.path == "machines[1].interfaces[0].ip"
    access = plan(compiled.state).management
    assert access.keys() == {"cut"}
    assert access["cut"].address == compiled.state.testbed_guests["cut"].interfaces[1].ip


@pytest.mark.parametrize(
    ("excluded", "left"),
    [("[cut]", {"cub"}), ("['cu?']", set()), ("[c*, web]", set()), ("['[!c]*']", {"cut", "cub"})],
)
def test_exceptions_are_names_and_patterns(excluded: str, left: set[str]) -> None:
    guests = {"web": "{bridge: home}", "cut": "{bridge: lab}", "cub": "{bridge: lab}"}
    state = compile_text(lab(guests, management=f"{{except: {excluded}}}")).state
    assert set(plan(state).management) == left


@pytest.mark.parametrize(("name", "hint"), [("cutt", "did you mean 'cut'?"), ("x*", None)])
def test_an_exception_that_matches_nothing_is_an_error(name: str, hint: str | None) -> None:
    with pytest.raises(InputError) as caught:
        compile_text(lab({"cut": "{bridge: lab}"}, management=f"{{except: ['{name}']}}"))
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("unknown-guest", "testbed_options.management.except[0]")
    assert problem.hint == hint


def test_resources_are_in_namespaces_of_their_own() -> None:
    found = plan(compile_text(lab({"cut": "{bridge: lab}"})).state)
    (port,) = found.management_ports
    assert port.namespace.startswith("kvm-compose.")
    assert port.namespace.endswith(".lab")
    refs = {each.ref.kind: each for each in found.resources if each.ref.name in (port.namespace, port.name)}
    assert refs["ovs-port"].needs[1] == refs["management-port"].ref


TAMPERED = [
    {"bridge": "home"},
    {"bridge": "other"},
    {"port": "eth0"},
    {"mac": "52:54:00:00:00:01"},
    {"ip": "10.9.0.7"},
    {"ip": "10.9.0.0"},
    {"ip": "10.9.0.255"},
    {"ip": "192.0.2.1"},
    {"prefix_length": 8},
    {"guests": ["web"]},
    {"guests": ["nobody"]},
    {"guests": []},
    {"guests": ["cut", "cut"]},
    {"namespace": "x"},
]


@pytest.mark.parametrize("change", TAMPERED, ids=str)
def test_a_state_that_no_build_wrote_is_refused(change: dict[str, Any]) -> None:
    guests = {"web": "{bridge: home}", "cut": "{bridge: lab, ip: 10.9.0.7}"}
    state = json.loads(encode_state(compile_text(lab(guests)).state))
    read_state(json.dumps(state).encode(), SCHEMAS)
    state["network"]["management_ports"][0] |= change
    with pytest.raises(KvmComposeError):
        read_state(json.dumps(state).encode(), SCHEMAS)


def test_an_external_bridge_that_there_is_not_is_the_only_problem() -> None:
    with pytest.raises(InputError) as caught:
        compile_text(lab({"cut": "{bridge: lab}"}, bridges="{name: lab}"))
    assert [each.code for each in caught.value.problems] == ["unknown-bridge"]


def test_a_dialect_without_management_ports_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(dialect("ovn"), "check_management")
    text = """\
machines:
  - name: web
    network: [{switch: sw0, ip: 10.0.0.5}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  ovn:
    switches: {sw0: {subnet: 10.0.0.0/24}}
testbed_options: {management: true}
"""
    with pytest.raises(InputError) as caught:
        compile_text(text)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("bad-value", "testbed_options.management")
