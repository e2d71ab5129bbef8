"""A machine with an ``id`` has everything under that name except what people call it by."""

from __future__ import annotations

import msgspec
import pytest

from golden.memory import SCHEMAS, compile_text, hosts
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import ExtraInfo, GuestState, encode_state
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.pipeline.moves import moves
from kvmcompose.pipeline.stored import read_state

TEXT = """\
machines:
  - {what}
    interfaces: [{{bridge: br0}}, {{bridge: br1}}]
    libvirt: {{cpus: 1, memory_mb: 64, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
  - {herd}
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {{cloud_image: {{name: debian_12}}}}
      scaling: {{count: 2, interfaces: [{{bridge: br0, clones: [0, 1]}}]}}
network: {{bridges: [{{name: br0}}, {{name: br1}}], external_bridge: br0}}
"""
NAMES = {"alice": "bob", "herd": "flock", "herd-0": "flock-0", "herd-1": "flock-1"}


def compiled(what: str = "name: alice", herd: str = "name: herd") -> Compiled:
    return compile_text(TEXT.format(what=what, herd=herd), on=hosts(1))


BEFORE = compiled()
AFTER = compiled("name: bob\n    id: alice", "name: flock\n    id: herd")


def kept(guest: GuestState) -> GuestState:
    """Return all of a guest except what its name shows in."""
    return msgspec.structs.replace(guest, name="", hostname="", id=None, extra_info=ExtraInfo())


def test_disks_addresses_and_names_on_the_host_stay() -> None:
    before, after = BEFORE.state.testbed_guests, AFTER.state.testbed_guests
    assert list(after) == list(NAMES.values())
    for old, new in NAMES.items():
        assert kept(after[new]) == kept(before[old])
        assert (after[new].identity, after[new].domain) == (old, f"lab-{old}")
        assert (after[new].name, after[new].hostname) == (new, f"lab-{new}")
    assert after["flock-1"].extra_info.reference_image == "flock"
    assert [each.path for each in AFTER.artefacts] == [each.path for each in BEFORE.artefacts]


def test_only_seeds_networks_and_the_state_are_others() -> None:
    before = {each.path: each for each in BEFORE.artefacts}
    changed = {each.path for each in AFTER.artefacts if each.content != before[each.path].content}
    seeds = {f"artefacts/{name}-cloud-init.iso" for name in NAMES if name != "herd"}
    assert changed == {*seeds, "state.json", "artefacts/lab-network.xml"}


def test_tasks_have_the_names_of_today() -> None:
    tasks = {each.task for each in AFTER.artefacts}
    assert {"disk:bob", "domain-xml:bob", "clone:flock-1", "disk:flock"} <= tasks
    assert not [task for task in tasks if "alice" in task or "herd" in task]
    assert {each.guest for each in AFTER.artefacts} == {None, *NAMES.values()}


def test_an_id_that_is_the_name_says_nothing() -> None:
    same = compiled("name: alice\n    id: alice")
    assert encode_state(same.state) == encode_state(BEFORE.state)


def test_the_state_is_read_as_it_was_written() -> None:
    document = encode_state(AFTER.state)
    state = read_state(document, SCHEMAS)
    assert encode_state(state) == document
    assert state.testbed_guests["flock-0"].extra_info.golden_identity == "herd"
    for guest in state.testbed_guests.values():
        assert guest.identity == AFTER.state.testbed_guests[guest.name].identity


def test_a_renamed_guest_has_not_moved() -> None:
    assert not moves(BEFORE.state, AFTER).moves


def test_a_renamed_guest_can_have_moved() -> None:
    text = """\
machines:
  - {{{name}, interfaces: [{{bridge: br0}}], docker: {{image: x}}}}
network: {{bridges: [{bridges}{{name: br0}}]}}
"""
    before = compile_text(text.format(name="name: alice", bridges=""), on=hosts(2))
    after = compile_text(text.format(name="name: bob, id: alice", bridges="{name: first}, "), on=hosts(2))
    found = moves(before.state, after).moves
    assert ("bob", "h0", "h1") in {(each.guest, each.old, each.new) for each in found}


@pytest.mark.parametrize(
    ("what", "herd", "message"),
    [
        ("name: bob\n    id: herd", "name: herd", "'herd' is already the name of the machine 'herd'"),
        ("name: bob\n    id: herd-1", "name: herd", "'herd-1' is already the name of a clone of 'herd'"),
        ("name: bob\n    id: x", "name: herd\n    id: x", "'x' is already the id of the machine 'bob'"),
        ("name: bob\n    id: x-0", "name: herd\n    id: x", "'x-0' is already the id of the machine 'bob'"),
        ("name: bob\n    id: Alice", "name: herd", "3:9: machines[0].id: error: not a valid name"),
        (f"name: bob\n    id: a{'b' * 62}", "name: herd", "has 67 characters"),
    ],
)
def test_an_id_is_a_name_that_nobody_else_has(what: str, herd: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled(what, herd)
    assert message in str(caught.value)
