"""Guests on logical switches keep host and addresses, or are reported with the lines that keep them."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from random_cases import cases

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from edited_labs import Document, compiled, pasted, possible, up

from kvmcompose.core.state import State
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.pipeline.moves import Fact, Moves, moves
from kvmcompose.pipeline.moves_text import lines_text, moves_text
from kvmcompose.placement import strategies

NAMES = [f"g{number}" for number in range(9)]


def machine(name: str, *on: str, ip: str | None = None, memory_mb: int = 100) -> Document:
    nic = {"ip": ip} if ip is not None else {}
    return {
        "name": name,
        "network": [{"switch": each, **nic} for each in on],
        "libvirt": {
            "cpus": 1,
            "memory_mb": memory_mb,
            "libvirt_type": {"cloud_image": {"name": "debian_12"}},
        },
    }


def lab_of(machines: list[Document], *, strategy: str = "round_robin", **subnets: str) -> Document:
    """A router with DHCP on all switches, whose names are ``a`` and ``b``."""
    subnets = subnets or {"a": "10.0.0.0/28", "b": "10.0.1.0/28"}
    ports = [
        {
            "name": f"r-{name}",
            "mac": f"52:54:00:00:00:{number:02x}",
            "gateway_ip": subnet.replace("0/", "1/"),
            "switch": name,
        }
        for number, (name, subnet) in enumerate(subnets.items())
    ]
    router = {"ports": ports, "dhcp": [{"switch": name} for name in subnets]}
    switches = {name: {"subnet": subnet} for name, subnet in subnets.items()}
    return {
        "machines": machines,
        "network": {"ovn": {"switches": switches, "routers": {"r": router}}},
        "testbed_options": {"load_balancing": strategy},
    }


def facts(before: State, after: Compiled) -> set[tuple[str, str]]:
    """What differs of the guests of both, found without the code under test."""
    found = set()
    for name, old in before.testbed_guests.items():
        new = after.state.testbed_guests.get(name)
        if new is None:
            continue
        if old.testbed_host != new.testbed_host and old.testbed_host in after.state.testbed_hosts:
            found.add((name, "host"))
        for was, now in zip(old.interfaces, new.interfaces, strict=True):
            found |= {(name, "address")} if was.addresses != now.addresses else set()
            found |= {(name, "MAC address")} if was.mac != now.mac else set()
    return found


def after_pasting(before: State, document: Document, found: Moves, count: int = 2) -> Moves:
    lines = yaml.safe_load(lines_text(found)) or {}
    return moves(before, compiled(pasted(document, lines), count))


@st.composite
def labs(draw: st.DrawFn, strategy: str) -> Document:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True))
    machines = [
        machine(
            name,
            *draw(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True)),
            ip=draw(st.sampled_from([None, None, "dynamic"])),
            memory_mb=draw(st.sampled_from([64, 300])),
        )
        for name in names
    ]
    return lab_of(machines, strategy=strategy)


@pytest.mark.parametrize("strategy", strategies())
@cases(40)
@given(data=st.data())
def test_what_changes_is_reported_and_the_lines_keep_it(strategy: str, data: st.DataObject) -> None:
    lab, count = data.draw(labs(strategy)), data.draw(st.integers(1, 3))
    before = up(lab, count)
    document: Any = copy.deepcopy(lab)
    more = data.draw(st.sampled_from(["new", "n2", "n3", "n4"]))
    position = data.draw(st.integers(0, len(document["machines"])))
    if data.draw(st.booleans()):
        document["machines"].insert(position, machine(more, data.draw(st.sampled_from(["a", "b"]))))
    elif len(document["machines"]) > 1:
        document["machines"].pop(position % len(document["machines"]))
    after = possible(document, count)
    assert after is not None
    found = moves(before, after)
    assert {(str(each.guest), each.fact.value) for each in found.moves} == facts(before, after)
    assert {each.fact for each in found.unkept} <= {Fact.ADDRESS}  # those by DHCP
    left = after_pasting(before, document, found, count)
    assert {(each.guest, each.index) for each in left.moves} == {
        (each.guest, each.index) for each in found.unkept
    }
    dynamic = {each["name"] for each in document["machines"] if each["network"][0].get("ip") == "dynamic"}
    assert {each.guest for each in found.unkept} <= dynamic


def collision() -> tuple[str, str]:
    """Two names of guests that derive one address in a small subnet."""
    seen: dict[str, str] = {}
    for number in range(40):
        name = f"c{number}"
        ip = up(lab_of([machine(name, "a")], a="10.0.0.0/28")).testbed_guests[name].interfaces[0].ip
        if ip in seen:
            return seen[ip], name
        seen[ip] = name
    raise AssertionError


def test_a_guest_put_first_is_reported_with_pins() -> None:
    lab = lab_of([machine("web", "a"), machine("db", "b")])
    before = up(lab)
    lab["machines"].insert(0, machine("new", "a", ip="10.0.0.9"))
    found = moves(before, compiled(lab))
    assert (
        moves_text(found)
        == """\
this edit also changes what it does not name:
  web: host h0 -> h1
  db: host h1 -> h0

to keep everything as it is, add these lines to kvm-compose.yaml:

testbed_options:
  placement:
    pin:
      db: h1
      web: h0"""
    )
    assert not after_pasting(before, lab, found)


def test_an_address_that_a_new_guest_takes_is_kept_by_ip() -> None:
    old, new = collision()
    before = up(lab_of([machine(old, "a", "b")]), 1)
    document = lab_of([machine(new, "a"), machine(old, "a", "b")])
    found = moves(before, compiled(document, 1))
    assert [(each.guest, each.fact, each.index) for each in found.moves] == [(old, Fact.ADDRESS, 0)]
    ip = before.testbed_guests[old].interfaces[0].ip
    assert found.lines["machines"] == [{"name": old, "network": [{"switch": "a", "ip": ip}, {"switch": "b"}]}]
    assert not after_pasting(before, document, found, 1)


def test_no_line_keeps_an_address_by_dhcp() -> None:
    old, new = collision()
    before = up(lab_of([machine(old, "a", ip="dynamic")]), 1)
    found = moves(before, compiled(lab_of([machine(new, "a"), machine(old, "a", ip="dynamic")]), 1))
    assert found.lines == {}
    [left] = found.unkept
    assert left.why is not None
    assert "DHCP" in left.why


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (machine("web", "a"), machine("web", "a", ip="10.0.0.9")),
        (machine("web", "a", ip="10.0.0.9"), machine("web", "a", ip="10.0.0.8")),
        (machine("web", "a"), machine("web", "a", ip="dynamic")),
        (machine("web", "a"), machine("web", "b")),
    ],
)
def test_an_edit_of_an_interface_names_it(old: Document, new: Document) -> None:
    assert not moves(up(lab_of([old])), compiled(lab_of([new])))


def test_a_subnet_names_the_guests_of_its_switch() -> None:
    guests = [machine("web", "a"), machine("db", "b")]
    before = up(lab_of(guests))
    assert not moves(before, compiled(lab_of(guests, a="10.7.0.0/28", b="10.0.1.0/28")))


def test_a_pin_names_guests_and_those_of_a_switch() -> None:
    guests = [machine("web", "a"), machine("db", "b")]
    before = up(lab_of(guests))
    for name in ("web", "a"):
        document = lab_of(guests)
        document["testbed_options"]["placement"] = {"pin": {name: "h1"}}
        after = compiled(document)
        assert after.state.testbed_guests["web"].testbed_host == "h1"
        assert not moves(before, after)
