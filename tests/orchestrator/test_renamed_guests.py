"""A testbed that is up, and machines that are renamed with an ``id``: nothing of them is touched."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Down, Snapshot, SnapshotVerb, Up

if TYPE_CHECKING:
    from conftest import Lab


@pytest.fixture
def renamed(lab: Lab) -> Lab:
    """A testbed that was brought up before two machines of it were renamed, and built since."""
    lab.must(Up())
    for old, new in (("web", "www"), ("worker", "staff")):
        lab.bench.edit(f"name: {old}\n", f"name: {new}\n    id: {old}\n")
    lab.bench.generate()
    return lab


def domains(lab: Lab) -> object:
    return msgspec.to_builtins(lab.world.domains)


def test_up_touches_no_domain(renamed: Lab) -> None:
    before = domains(renamed)
    action = renamed.must(Up())
    assert domains(renamed) == before
    for what in ("start:", "stop:", "update:", "setup:", "prepare:"):
        assert not [line for line in renamed.log(action) if (line.step or "").startswith(what)], what
    names = {guest.name: guest.state for guest in renamed.status().guests}
    assert {name for name, state in names.items() if state == "running"} == {
        "www",
        "db",
        "alone",
        "staff-0",
        "staff-1",
    }
    assert names["staff"] == "golden"


def test_guests_are_reached_by_their_new_names(renamed: Lab) -> None:
    renamed.must(Up())
    access = {each.name: each for each in asyncio.run(renamed.orchestrator.access(renamed.deployment))}
    assert access["www"].domain == access["www"].host_key_alias == "lab-web"
    assert access["www"].hostname == "lab-www"
    assert access["staff-1"].domain == "lab-worker-1"


def test_snapshots_survive(renamed: Lab) -> None:
    renamed.must(Up())
    renamed.must(Snapshot(verb=SnapshotVerb.CREATE, name="first", guests=("www",)))
    renamed.must(Down())
    assert not renamed.world.domains
    renamed.must(Up())
    found = asyncio.run(renamed.orchestrator.snapshots(renamed.deployment))
    assert [(each.name, each.guest) for each in found] == [("first", "www")]


def test_down_leaves_nothing(renamed: Lab) -> None:
    renamed.must(Down())
    renamed.assert_clean()
