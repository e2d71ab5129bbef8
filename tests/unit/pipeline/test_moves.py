"""What an edit does not name keeps its host and addresses, or is reported with the lines that keep it."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from random_cases import cases

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from edited_labs import (
    EDITS,
    Document,
    compiled,
    differences,
    edited,
    lab_of,
    labs,
    machine,
    pasted,
    possible,
    up,
)

from golden.memory import compile_text
from kvmcompose.core.names import stable_number
from kvmcompose.core.state import State, encode_state
from kvmcompose.networks import keeper
from kvmcompose.networks._hold import Hold
from kvmcompose.pipeline.moves import Fact, Move, Moves, moves
from kvmcompose.pipeline.moves_text import lines_text, moves_text
from kvmcompose.placement import strategies

TWO = [machine("web", "lan"), machine("db", "wan")]


def silent(each: Moves) -> tuple[Move, ...]:
    """What no line prevents, without the reasons."""
    return tuple(msgspec.structs.replace(move, why=None) for move in each.unkept)


def after_pasting(
    before: State, document: Document, found: Moves, count: int = 2, memory_mb: int | None = None
) -> Moves:
    """The report after the text of its lines was pasted."""
    lines = yaml.safe_load(lines_text(found)) or {}
    return moves(before, compiled(pasted(document, lines), count, memory_mb))


@pytest.mark.parametrize("strategy", strategies())
@cases(60)
@given(data=st.data())
def test_what_changes_is_reported_and_the_lines_keep_it(strategy: str, data: st.DataObject) -> None:
    lab, count = data.draw(labs(strategy)), data.draw(st.integers(1, 3))
    memory = data.draw(st.sampled_from([None, None, 1200]))
    if possible(lab, count, memory) is None:
        return
    before = up(lab, count, memory)
    edit = data.draw(st.sampled_from(EDITS))
    document, count = edited(lab, count, edit, data.draw(st.integers(0, 50)))
    after = possible(document, count, memory)
    if after is None:
        return
    found = moves(before, after)
    assert {(each.guest, each.fact.value) for each in found.moves} == differences(before, after)
    assert all(each.why is None for each in found.moves)
    assert all(each.why for each in found.unkept)
    assert after_pasting(before, document, found, count, memory).moves == silent(found)
    # what cannot be kept: two networks that become one, bridges that become inseparable, guests of a host
    # that has become too small
    if memory is None and edit not in ("connection", "router"):
        assert found.unkept == ()


@pytest.mark.parametrize("strategy", strategies())
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_an_edit_that_moves_nobody_has_no_report(strategy: str, data: st.DataObject) -> None:
    lab = data.draw(labs(strategy))
    if possible(lab, 2) is None:
        return
    before = up(lab)
    reordered = dict(reversed(lab.items()))
    reordered["machines"] = [dict(reversed(each.items())) for each in lab["machines"]]
    text = "# a comment\n" + yaml.safe_dump(reordered, sort_keys=False)
    again = compile_text(text, on=[*before.testbed_hosts.values()])
    assert moves(before, again) == Moves()
    assert moves_text(moves(before, again)) == ""


def test_the_last_guest_removed_moves_nobody() -> None:
    before = up(lab_of(["lan", "wan"], [*TWO, machine("last", "lan")], external="lan"))
    assert not moves(before, compiled(lab_of(["lan", "wan"], TWO, external="lan")))


def test_a_bridge_put_first_is_reported_with_its_lines() -> None:
    before = up(lab_of(["lan", "wan"], TWO, external="lan"))
    document = lab_of(["new", "lan", "wan"], TWO, ("new", "lan"), external="lan")
    found = moves(before, compiled(document))
    assert (
        moves_text(found)
        == """\
this edit also changes what it does not name:
  bridge wan: host h1 -> h0
  db: host h1 -> h0
  web: address 10.112.137.14/20 -> 10.87.249.14/20 (interface 0, on lan)
  web: gateway 10.112.128.1 -> 10.87.240.1 (interface 0, on lan)

to keep everything as it is, add these lines to kvm-compose.yaml:

testbed_options:
  placement:
    pin:
      wan: h1
network:
  bridges:
  - name: lan
    subnet: 10.112.128.0/20"""
    )
    assert not after_pasting(before, document, found)


def test_of_two_networks_that_become_one_the_larger_keeps_its_subnet() -> None:
    before = up(lab_of(["lan", "wan"], [*TWO, machine("cache", "wan")]), 1)
    document = lab_of(["lan", "wan"], [*TWO, machine("cache", "wan")], ("lan", "wan"))
    found = moves(before, compiled(document, 1))
    assert {each.guest for each in found.moves} == {"db", "cache"}
    assert [each.guest for each in found.unkept] == ["web"]
    assert "the guests of connected bridges share one subnet, and 10.2" in str(found.unkept[0].why)
    assert found.lines["network"]["bridges"][0]["name"] == "wan"
    assert "no line prevents:\n  because the guests of connected bridges" in moves_text(found)
    assert after_pasting(before, document, found, 1).moves == silent(found)


def crowded(number: int) -> list[Document]:
    return [machine(f"g{each}", "lan") for each in range(number)]


def test_a_network_that_outgrows_its_subnet_keeps_it_by_one_line() -> None:
    before = up(lab_of(["lan"], crowded(256), external="lan"))
    document = lab_of(["lan"], crowded(257), external="lan")
    found = moves(before, compiled(document))
    assert len(found.moves) == 2 * 256
    assert "and 472 more" in moves_text(found)
    assert lines_text(found).splitlines() == [
        "network:", "  bridges:", "  - name: lan", "    subnet: 10.112.128.0/20",
    ]  # fmt: skip
    assert not after_pasting(before, document, found)


def displaced(clones: int = 0) -> tuple[Document, Document]:
    """A testbed, and the same with a new guest in front that takes the address of another."""
    old = machine("g36", "lan") if not clones else machine("g", "lan", clones=clones)

    def slot(guest: str) -> int:
        return stable_number("ip", "lab", guest, 0) % (2**12 - 3)

    wanted = slot("g36" if not clones else "g-0")
    new = next(name for number in range(100000) if slot(name := f"new{number}") == wanted)
    return lab_of(["lan"], [old]), lab_of(["lan"], [machine(new, "lan"), old])


def test_a_guest_whose_address_a_new_one_takes_keeps_it_by_ip() -> None:
    lab, document = displaced()
    before = up(lab)
    found = moves(before, compiled(document))
    assert [(each.guest, each.fact) for each in found.moves] == [("g36", Fact.ADDRESS)]
    interfaces = [{"bridge": "lan", "ip": before.testbed_guests["g36"].interfaces[0].ip}]
    assert found.lines["machines"] == [{"name": "g36", "interfaces": interfaces}]
    assert "; 'interfaces' is the whole list of its machine:" in moves_text(found)
    assert not after_pasting(before, document, found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"bridge": "lan"}, {"bridge": "lan", "ip": "10.1.2.3"}),
        ({"bridge": "lan", "ip": "10.1.2.3"}, {"bridge": "lan", "ip": "10.1.2.4"}),
        ({"bridge": "lan", "ip": "10.1.2.3"}, {"bridge": "lan"}),
        ({"bridge": "lan", "ip": "dynamic"}, {"bridge": "lan"}),
        ({"bridge": "lan"}, {"bridge": "lan", "mac": "52:54:00:00:00:01"}),
        ({"bridge": "lan", "mac": "52:54:00:00:00:01"}, {"bridge": "lan"}),
        ({"bridge": "lan"}, {"bridge": "wan"}),
    ],
)
def test_an_edit_of_an_interface_names_it(old: Document, new: Document) -> None:
    def lab(interface: Document) -> Document:
        return lab_of(["lan", "wan"], [{**machine("web"), "interfaces": [interface]}], external="lan")

    before, after = up(lab(old)), compiled(lab(new))
    assert encode_state(before) != encode_state(after.state)
    assert not moves(before, after)


def test_a_pin_names_the_guests_of_its_bridges() -> None:
    lab = lab_of(["lan", "wan"], [*TWO, machine("other", "lan")], strategy="pack")
    document = pasted(lab, {"testbed_options": {"placement": {"pin": {"web": "h1"}}}})
    after = compiled(document)
    assert after.state.testbed_guests["other"].testbed_host == "h1"
    assert not moves(up(lab), after)


def test_a_subnet_names_the_guests_of_its_network_and_no_others() -> None:
    lab = lab_of(["lan", "wan"], TWO)
    subnet = {"network": {"bridges": [{"name": "lan", "subnet": "10.20.0.0/24"}]}}
    assert not moves(up(lab), compiled(pasted(lab, subnet)))
    document = pasted(lab_of(["lan", "wan"], TWO, ("wan", "lan")), subnet)
    found = moves(up(lab), compiled(document))
    assert {each.guest for each in found.moves} == {"db"}
    assert "the `subnet` of its connected network is 10.20.0.0/24 now" in str(found.unkept[0].why)


def test_the_ip_of_a_new_guest_widens_nobody_elses_subnet_unseen() -> None:
    fixed = {**machine("web"), "interfaces": [{"bridge": "lan", "ip": "192.168.7.5"}]}
    far = {**machine("new"), "interfaces": [{"bridge": "lan", "ip": "192.168.12.5"}]}
    before = up(lab_of(["lan"], [fixed]))
    found = moves(before, compiled(lab_of(["lan"], [fixed, far])))
    assert [(each.old, each.new) for each in found.moves] == [("192.168.7.5/24", "192.168.7.5/20")]
    assert found.lines == {}
    assert (
        found.unkept[0].why == "192.168.12.5 is outside 192.168.7.0/24, the subnet of its connected network"
    )


def test_an_address_that_another_guest_is_given_is_not_kept() -> None:
    before = up(lab_of(["lan"], TWO[:1]))
    taken = before.testbed_guests["web"].interfaces[0].ip
    thief = {**machine("thief"), "interfaces": [{"bridge": "lan", "ip": taken}]}
    found = moves(before, compiled(lab_of(["lan"], [*TWO[:1], thief])))
    assert found.moves
    assert found.unkept[0].why == f"thief has the `ip` {taken} now"


def test_of_bridges_that_become_inseparable_those_with_most_guests_keep_their_host() -> None:
    lab = lab_of(["lan", "wan"], [*TWO, machine("other", "wan")])
    document = lab_of(
        ["lan", "wan"], [*TWO, machine("other", "wan"), machine("router", "lan", "wan")], strategy="pack"
    )
    before = up(lab)
    found = moves(before, compiled(document))
    assert {each.guest for each in found.moves} == {None, "db", "other"}
    assert found.unkept
    assert found.lines == {"testbed_options": {"placement": {"pin": {"wan": "h1"}}}}
    assert {(each.guest, each.bridge) for each in found.unkept} == {(None, "lan"), ("web", None)}
    assert {each.why for each in found.unkept} == {"it cannot be separated from wan"}
    assert after_pasting(before, document, found).moves == silent(found)


def test_no_host_has_room_for_all_pins() -> None:
    def lab(strategy: str, *more: Document) -> Document:
        return lab_of(["a", "b", "c"], [machine("one", "a"), machine("two", "b"), *more], strategy=strategy)

    before = up(lab("spread"), 2, 300)
    assert {each.testbed_host for each in before.testbed_guests.values()} == {"h0", "h1"}
    document = lab("spread", machine("large", "c", memory_mb=300))
    found = moves(before, compiled(document, 2, 300))
    assert [each.fact for each in found.unkept if each.guest] == [Fact.HOST]
    assert all("has room for" in str(each.why) for each in found.unkept)


def test_guests_of_a_host_that_is_gone_are_not_reported_but_those_shuffled_by_it_are() -> None:
    lab = lab_of(["a", "b", "c", "d"], [machine(f"on-{each}", each) for each in "abcd"])
    before = up(lab, 3)
    found = moves(before, compiled(lab, 2))
    assert {each.guest for each in found.moves if each.guest} == {"on-d"}
    assert found.lines == {"testbed_options": {"placement": {"pin": {"d": "h0"}}}}


def test_a_tap_device_renamed_by_a_bridge_is_reported() -> None:
    before = up(lab_of(["lan"], TWO[:1]))
    found = moves(before, compiled(lab_of(["lan", "web-0"], TWO[:1])))
    assert [(each.fact, each.old) for each in found.moves] == [(Fact.TAP, "lab-web-0")]
    assert found.unkept


def test_a_bridge_with_the_name_of_a_guest_is_pinned_by_a_guest_that_is_on_it_alone() -> None:
    guests = [machine("lan", "lan"), machine("db", "lan")]
    document = lab_of(["new", "lan"], guests)
    before = up(lab_of(["lan"], guests))
    found = moves(before, compiled(document))
    assert found.lines == {"testbed_options": {"placement": {"pin": {"db": "h0"}}}}
    assert not after_pasting(before, document, found)


def test_no_pin_names_a_bridge_that_has_the_name_of_its_only_guest() -> None:
    guests = [machine("lan", "lan")]
    found = moves(up(lab_of(["lan"], guests)), compiled(lab_of(["new", "lan"], guests)))
    assert {each.why for each in found.unkept} == {"lan is a bridge and a guest: no pin names it"}


def test_the_host_of_clones_is_pinned_by_their_bridge() -> None:
    lab = lab_of(["lan"], [machine("web", "lan", clones=3)])
    before = up(lab)
    document = lab_of(["new", "lan"], [machine("web", "lan", clones=3)])
    found = moves(before, compiled(document))
    assert [each.guest for each in found.moves] == [None, "web-0", "web-1", "web-2"]
    assert found.lines == {"testbed_options": {"placement": {"pin": {"lan": "h0"}}}}
    assert not after_pasting(before, document, found)


def test_a_clone_whose_address_is_taken_keeps_it_by_an_entry_of_its_own() -> None:
    lab, document = displaced(clones=3)
    before = up(lab)
    found = moves(before, compiled(document))
    assert [each.guest for each in found.moves] == ["g-0"]
    ip = before.testbed_guests["g-0"].interfaces[0].ip
    interfaces = [{"bridge": "lan", "ip": ip, "clones": [0]}, {"bridge": "lan", "clones": [1, 2]}]
    assert found.lines["machines"] == [{"name": "g", "libvirt": {"scaling": {"interfaces": interfaces}}}]
    assert not after_pasting(before, document, found)


def test_lines_for_a_clone_leave_the_order_of_its_interfaces_and_other_clones_alone() -> None:
    lab = lab_of(["lan", "wan"], [machine("g", "lan", "wan", clones=2)], strategy="pack")
    keep = keeper(up(lab), compiled(lab).placed.logical)
    lines = keep.lines(Hold(macs={("g-1", 1): "52:54:00:00:00:07"}))
    guests = compiled(pasted(lab, lines)).state.testbed_guests
    assert [each.bridge for each in guests["g-1"].interfaces] == ["lan", "wan"]
    assert guests["g-1"].interfaces[1].mac == "52:54:00:00:00:07"
    assert guests["g-0"] == compiled(lab).state.testbed_guests["g-0"]


def test_a_mac_address_that_another_guest_is_given_is_not_kept() -> None:
    before = up(lab_of(["lan"], TWO[:1]))
    taken = before.testbed_guests["web"].interfaces[0].mac
    thief = {**machine("thief"), "interfaces": [{"bridge": "lan", "mac": taken}]}
    found = moves(before, compiled(lab_of(["lan"], [thief, *TWO[:1]])))
    assert [(each.guest, each.fact) for each in found.unkept] == [("web", Fact.MAC)]
    assert found.unkept[0].why == f"thief has the `mac` {taken} now"


def test_a_renamed_guest_with_an_id_keeps_its_address_and_is_reported_by_its_new_name() -> None:
    def lab(name: str, *bridges: str) -> Document:
        guests = [{**machine(name, "lan"), **({"id": "web"} if name != "web" else {})}, TWO[1]]
        return lab_of([*bridges, "lan", "wan"], guests, *[(each, "lan") for each in bridges])

    before = up(lab("web"))
    assert not moves(before, compiled(lab("www")))
    found = moves(before, compiled(lab("www", "new")))
    assert {each.guest for each in found.moves} == {None, "www", "db"}
    assert not after_pasting(before, lab("www", "new"), found)
