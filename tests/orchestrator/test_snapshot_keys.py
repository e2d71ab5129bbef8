"""The host key of a guest that is restored from before its seed changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.core.commands import Down, Snapshot, SnapshotVerb, Up

if TYPE_CHECKING:
    from conftest import Lab


def snapshot(lab: Lab, verb: SnapshotVerb) -> str:
    calls = len(lab.drivers.calls)
    action = lab.must(Snapshot(verb=verb, name="before", guests=("web",)))
    return "\n".join([lab.text(action), *lab.drivers.calls[calls:]])


def test_the_host_key_follows_the_snapshot(lab: Lab) -> None:
    lab.must(Up())
    old = lab.store.mark("lab", "seed", "web")
    assert old
    snapshot(lab, SnapshotVerb.CREATE)
    same = snapshot(lab, SnapshotVerb.RESTORE)
    assert f"expect:web:ssh-fake lab-web:{old[:16]}" in same
    assert "has changed since" not in same
    (lab.folder / "setup.sh").write_text("#!/bin/sh\necho other\n")
    lab.bench.generate()
    lab.must(Down())
    lab.must(Up())
    new = lab.store.mark("lab", "seed", "web")
    assert new not in (None, old)
    said = snapshot(lab, SnapshotVerb.RESTORE)
    assert f"expect:web:ssh-fake lab-web:{old[:16]}" in said
    assert "has the set-up of then, and its host key: its seed has changed since" in said
    # started with the seed of now, it has another key again
    assert lab.store.mark("lab", "seed", "web") == old
    lab.must(Down())
    calls = len(lab.drivers.calls)
    lab.must(Up())
    assert "forget:web" in lab.drivers.calls[calls:]
    assert lab.store.mark("lab", "seed", "web") == new


def test_what_is_known_of_a_snapshot_goes_with_it(lab: Lab) -> None:
    lab.must(Up())
    snapshot(lab, SnapshotVerb.CREATE)
    lab.store.put_mark("lab", "snapshot:before", "web", None)  # as an earlier version made it
    assert "forget:web" in snapshot(lab, SnapshotVerb.RESTORE)
    snapshot(lab, SnapshotVerb.DELETE)
    snapshot(lab, SnapshotVerb.CREATE)
    snapshot(lab, SnapshotVerb.DELETE)
    assert lab.store.mark("lab", "snapshot:before", "web") is None
