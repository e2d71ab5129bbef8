"""Machines that look renamed are found, and nothing else."""

from __future__ import annotations

import pytest

from golden.memory import compile_text, hosts
from kvmcompose.core.state import State, decode_state, encode_state
from kvmcompose.pipeline.renames import Rename, renames

IMAGE = "libvirt_type: {cloud_image: {name: debian_12, environment: {GREETING: hello}}}"
MACHINE = "{name: %s, interfaces: [{bridge: %s}], libvirt: {cpus: 1, memory_mb: %d, " + IMAGE + "}}"
HERD = (
    "{name: %s, libvirt: {cpus: 1, memory_mb: 64, " + IMAGE + ", "
    "scaling: {count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]}}}"
)


def one(name: str, *, bridge: str = "br0", memory: int = 64) -> str:
    return MACHINE % (name, bridge, memory)


def state(*machines: str) -> State:
    lines = "".join(f"  - {each}\n" for each in machines)
    text = f"machines:\n{lines}network: {{bridges: [{{name: br0}}, {{name: br1}}], external_bridge: br0}}\n"
    return compile_text(text, on=hosts(1)).state


OTHER = one("other", memory=128)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([one("alice"), OTHER], [OTHER, one("bob")], [Rename("alice", "bob", "alice")]),
        ([HERD % "herd"], [HERD % "flock"], [Rename("herd", "flock", "herd")]),
        (
            [one("a"), one("b")],
            [one("x"), one("y")],
            [Rename("a", "x", "a"), Rename("b", "y", "b")],
        ),
        ([one("bob, id: alice")], [one("carol")], [Rename("bob", "carol", "alice")]),
        # nothing is gone, or nothing came
        ([one("alice")], [one("alice"), one("bob")], []),
        ([one("alice"), OTHER], [OTHER], []),
        # not the same machine
        ([one("alice")], [one("bob", memory=65)], []),
        ([one("alice")], [one("bob", bridge="br1")], []),
        ([one("alice")], [HERD % "bob"], []),
        # which of them it was does not show
        ([one("a"), one("b")], [one("x")], []),
        ([one("a")], [one("x"), one("y")], []),
        # the data is kept, or its name is in use
        ([one("alice")], [one("bob, id: alice")], []),
        ([one("alice"), OTHER], [one("bob"), one("alice, id: other", memory=128)], []),
    ],
)
def test_pairs_are_alike_and_certain(before: list[str], after: list[str], found: list[Rename]) -> None:
    assert list(renames(state(*before), state(*after))) == found


def test_a_state_that_was_read_back_is_compared_as_well() -> None:
    before = decode_state(encode_state(state(one("alice"))))
    (found,) = renames(before, state(one("bob")))
    assert found.line == "id: alice"
    assert renames(before, decode_state(encode_state(state(one("bob"))))) == (found,)
    kept = state(one("bob, id: alice"))
    assert kept.testbed_guests["bob"].interfaces == before.testbed_guests["alice"].interfaces
