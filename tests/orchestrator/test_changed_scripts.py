"""Scripts, contexts and environments that change after they ran: seen, and run again when that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure

if TYPE_CHECKING:
    from conftest import Lab

SETUP = "setup_script: setup.sh"
NIC = "\n    interfaces: ["
MEMORY = "memory_mb: 128\n      libvirt_type:"


def calls(lab: Lab) -> list[str]:
    """What was run in guests since the last call."""
    found = [each for each in lab.drivers.calls if each.startswith("run:")]
    lab.drivers.calls.clear()
    return found


def scripts(lab: Lab) -> list[str]:
    """The scripts among that."""
    return [each for each in calls(lab) if each.endswith(".sh") and "/done/" not in each]


def set_ups(lab: Lab) -> list[str]:
    """What differs in the set-up of guests."""
    return [each for each in lab.status().differences if "set-up" in each]


def of_web(lab: Lab) -> list[str]:
    return [each for each in set_ups(lab) if "of web" in each]


def change_script(lab: Lab, name: str = "setup.sh") -> None:
    (lab.folder / name).write_text(f"#!/bin/sh\necho another {name}\n")
    lab.bench.generate()


def edit(old: str, new: str) -> Callable[[Lab], None]:
    def apply(lab: Lab) -> None:
        lab.bench.edit(old, new)
        lab.bench.generate()

    return apply


def add_context(lab: Lab) -> None:
    (lab.folder / "context").mkdir()
    (lab.folder / "context" / "file").write_text("content\n")
    edit(SETUP, f"{SETUP}, context: context")(lab)


CHANGES = {
    "script": (change_script, "setup script setup.sh has changed"),
    "context": (add_context, "context added"),
    "environment": (edit(SETUP, f"{SETUP}, environment: {{GREETING: hello}}"), "environment GREETING added"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_shown_and_waits(lab: Lab, what: str) -> None:
    lab.must(Up())
    change, reason = CHANGES[what]
    change(lab)
    calls(lab)
    for _now_and_after_up in range(2):
        assert of_web(lab) == [f"set-up of web is out of date: {reason}"]
        lab.must(Up())
        assert not [each for each in scripts(lab) if "/setup/" in each]
    lab.must(Down())
    lab.must(Up())  # the guest is asked
    assert not [each for each in scripts(lab) if "/setup/" in each]
    assert of_web(lab) == [f"set-up of web is out of date: {reason}"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"web{NIC}{{bridge: br0}}]\n", f"web{NIC}{{bridge: br1}}]\n"),
        ("setup.sh, run", "./setup.sh, run"),
        (f"{MEMORY}\n        cloud", f"username: me\n      {MEMORY}\n        cloud"),
    ],
)
def test_what_else_is_in_a_seed_is_no_new_set_up(lab: Lab, old: str, new: str) -> None:
    lab.must(Up())
    edit(old, new)(lab)
    lab.must(Up())
    assert not set_ups(lab)
    calls(lab)
    lab.must(Down())
    lab.must(Up())
    assert not set_ups(lab)
    assert not [each for each in scripts(lab) if "/setup/" in each]


def test_a_script_under_another_name_is_the_same(lab: Lab) -> None:
    lab.must(Up())
    (lab.folder / "install.sh").write_text((lab.folder / "setup.sh").read_text())
    edit(SETUP, "setup_script: install.sh")(lab)
    assert not set_ups(lab)
    lab.must(Down())
    calls(lab)
    lab.must(Up())
    assert not [each for each in scripts(lab) if "/setup/" in each]


def test_they_are_run_again_with_what_they_are_now(lab: Lab) -> None:
    lab.must(Up())
    change_script(lab)
    calls(lab)
    lab.must(Up(rerun_scripts=True))
    run = scripts(lab)
    assert "run:web:/etc/nocloud/setup/00-setup.sh" in run
    assert "run:worker-0:/etc/nocloud/setup/00-clone.sh" in run
    disk = lab.world.disks[lab.disk("web-cloud-init.img")]
    assert "setup/00-setup.sh" in disk.files
    assert not set_ups(lab)
    lab.must(Down())
    lab.must(Up())
    assert not set_ups(lab)
    assert not [each for each in scripts(lab) if "/setup/" in each]


def test_they_are_run_again_in_guests_that_are_named(lab: Lab) -> None:
    lab.must(Up())
    change_script(lab)
    change_script(lab, "clone.sh")
    calls(lab)
    action = lab.must(Up(rerun_scripts=True, rerun_guests=("worker-1",)))
    run = [each for each in scripts(lab) if each.startswith("run:")]
    assert run == ["run:worker-1:/etc/nocloud/setup/00-clone.sh", "run:worker-1:/etc/nocloud/run/00-run.sh"]
    outdated = {guest.name: guest.outdated for guest in lab.status().guests if guest.outdated}
    assert outdated == {
        "web": ("setup script setup.sh has changed",),
        "worker-0": ("setup script clone.sh has changed",),
    }
    assert "to run these scripts again: kvm-compose up --rerun-scripts web worker-0" in lab.text(action)


def test_guests_without_scripts_are_refused(lab: Lab) -> None:
    lab.must(Up())
    for name, message in (
        ("db", "db has no scripts to run again"),
        ("worker", "worker has no scripts to run again"),
        ("wen", "there is no guest 'wen'"),
    ):
        refused = lab.do(Up(rerun_scripts=True, rerun_guests=(name,)))
        assert refused.refused
        assert refused.faults[0].message == message


def test_what_waits_is_said_once_by_up(lab: Lab) -> None:
    lab.must(Up())
    change_script(lab)
    line = "set-up of web is out of date: setup script setup.sh has changed"
    again = lab.must(Up())
    lab.must(Down())
    started = lab.must(Up())
    lab.world.domains["lab-db"].started = 0
    repaired = lab.must(Up())
    for action in (again, started, repaired):
        assert lab.text(action).splitlines().count(line) == 1


def test_what_is_sent_comes_before_what_is_run(lab: Lab) -> None:
    lab.must(Up())
    change_script(lab)
    change_script(lab, "run.sh")
    calls(lab)
    lab.must(Up())  # run scripts run when they changed
    of_web = [each for each in calls(lab) if each.startswith("run:web:")]
    sent = lab.world.disks[lab.disk("web-cloud-init.img")].sent
    assert sent
    assert of_web.index(f"run:web:{sent}") < of_web.index("run:web:/etc/nocloud/run/00-run.sh")
    assert of_web.count(f"run:web:{sent}") == 1
    lab.must(Up(rerun_scripts=True))
    assert f"run:web:{sent}" not in calls(lab)  # it is there


def test_a_set_up_that_failed_goes_on_with_the_mended_script(lab: Lab) -> None:
    edit("clone_setup: [", "clone_setup: [{script: setup.sh, clones: [0]}, ")(lab)
    lab.drivers.failures = [Failure("run:worker-0:/etc/nocloud/setup/01-clone.sh", 1)]
    assert lab.do(Up()).state is ActionState.FAILED
    change_script(lab, "clone.sh")
    calls(lab)
    lab.must(Up())
    of_clone = [each for each in calls(lab) if each.startswith("run:worker-0:")]
    sent = lab.world.disks[lab.disk("worker-0-linked-clone.qcow2")].sent
    assert of_clone.index(f"run:worker-0:{sent}") < of_clone.index(
        "run:worker-0:/etc/nocloud/setup/01-clone.sh"
    )
    assert "run:worker-0:/etc/nocloud/setup/00-setup.sh" not in of_clone
    assert not [each for each in set_ups(lab) if "worker-0" in each]


def test_an_interrupted_rerun_is_finished_by_the_next_up(lab: Lab) -> None:
    lab.must(Up())
    change_script(lab)
    lab.drivers.failures = [Failure("run:web:/etc/nocloud/setup/*", 1)]
    assert lab.do(Up(rerun_scripts=True)).state is ActionState.FAILED
    calls(lab)
    lab.must(Up())
    assert "run:web:/etc/nocloud/setup/00-setup.sh" in scripts(lab)
    assert not set_ups(lab)


def test_a_script_that_is_added_runs(lab: Lab) -> None:
    lab.must(Up())
    edit(
        "clones: [0, 1]}]\n        clone_run",
        "clones: [0, 1]}, {script: setup.sh, clones: [1]}]\n        clone_run",
    )(lab)
    calls(lab)
    lab.must(Up())
    assert [each for each in scripts(lab) if "/setup/" in each] == [
        "run:worker-1:/etc/nocloud/setup/01-setup.sh"
    ]
    assert not set_ups(lab)


def test_empty_records_of_version_0_1_count_as_what_is_now(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down())
    disk = lab.world.disks[lab.disk("web-cloud-init.img")]
    disk.markers = dict.fromkeys(disk.markers, "")
    calls(lab)
    lab.must(Up())
    assert not [each for each in scripts(lab) if "web:/etc/nocloud/setup/" in each]
    assert all(disk.markers.values())
    change_script(lab)
    lab.must(Down())
    lab.must(Up())
    assert [each for each in set_ups(lab) if "of web" in each]


def test_a_restored_snapshot_is_asked_again(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="first", guests=("web",)))
    disk = lab.world.disks[lab.disk("web-cloud-init.img")]
    before = dict(disk.markers)
    change_script(lab)
    lab.must(Up(rerun_scripts=True))
    assert not set_ups(lab)
    lab.must(Snapshot(verb=SnapshotVerb.RESTORE, name="first", guests=("web",)))
    disk.markers = before
    lab.must(Up())
    assert set_ups(lab) == ["set-up of web is out of date: setup script setup.sh has changed"]


def test_guests_in_which_nothing_changed_are_not_asked(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Up())
    calls(lab)
    lab.must(Up())
    lab.status()
    assert calls(lab) == []
    change_script(lab)
    lab.must(Up())
    lab.status()
    assert calls(lab) == []
