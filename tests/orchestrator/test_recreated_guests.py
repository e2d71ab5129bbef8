"""Guests that are recreated: another disk, another life; nobody else is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Power, PowerVerb, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure

if TYPE_CHECKING:
    from conftest import Lab


def scripts_of(lab: Lab, guest: str) -> list[str]:
    found = [each for each in lab.drivers.calls if each.startswith(f"run:{guest}:/etc/nocloud/")]
    return [each.rpartition("/")[2] for each in found if each.endswith(".sh") and "/done/" not in each]


@pytest.mark.parametrize(
    ("guest", "disk", "scripts"),
    [
        ("web", "web-cloud-init.img", ["00-setup.sh", "00-run.sh"]),
        ("worker-1", "worker-1-linked-clone.qcow2", ["00-clone.sh", "00-run.sh"]),
    ],
)
def test_it_has_an_empty_disk_and_is_set_up(lab: Lab, guest: str, disk: str, scripts: list[str]) -> None:
    lab.must(Up())
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="first", guests=(guest,)))
    started = {name: domain.started for name, domain in lab.world.domains.items()}
    lab.drivers.calls.clear()
    action = lab.must(Up(recreate=(guest,)))
    assert [call for call in lab.drivers.calls if call.startswith("reset_")] == [f"reset_overlay:{disk}"]
    assert f"forget:{guest}" in lab.drivers.calls  # its host key
    assert scripts_of(lab, guest) == scripts
    changed = {name for name, domain in lab.world.domains.items() if domain.started != started[name]}
    assert changed == {f"lab-{guest}"}
    assert not lab.world.domains[f"lab-{guest}"].snapshots
    order = [step.name for step in lab.store.steps(action.uuid) if step.guest == guest]
    assert order[:4] == [f"stop:{guest}", f"recreate:{guest}", f"start:{guest}", f"wait:{guest}"]
    assert lab.status().differences == ()
    lab.drivers.calls.clear()
    lab.must(Up())
    assert not scripts_of(lab, guest)


def test_guests_that_are_named_elsewhere_are_changed_too(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.calls.clear()
    lab.must(Up(guests=("db",), recreate=("web",)))
    assert "reset_overlay:web-cloud-init.img" in lab.drivers.calls


def test_one_that_is_off_or_gone_is_recreated(lab: Lab) -> None:
    lab.must(Up())
    lab.world.domains["lab-web"].started = 0
    lab.must(Up(recreate=("web",)))
    assert lab.drivers.calls.count("reset_overlay:web-cloud-init.img") == 1
    del lab.world.domains["lab-web"]
    lab.must(Up(recreate=("web",)))
    assert lab.drivers.calls.count("reset_overlay:web-cloud-init.img") == 2
    assert "web" in lab.running()


@pytest.mark.parametrize("call", ["reset_overlay:*", "start_domain:lab-web", "run:web:/etc/nocloud/setup/*"])
def test_a_failure_is_made_good_by_the_next_up(lab: Lab, call: str) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure(call, 1)]
    assert lab.do(Up(recreate=("web",))).state is ActionState.FAILED
    lab.must(Up())
    assert "web" in lab.running()
    assert lab.status().differences == ()


def test_what_cannot_be_recreated_is_refused_before_anything_is_done(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",)))
    lab.drivers.calls.clear()
    for name, message, hint in (
        ("worker", "worker is a golden image", "--recreate worker-0 --recreate worker-1"),
        ("db", "db is shut off", "kvm-compose start db"),
        ("wen", "there is no guest 'wen'", "did you mean web?"),
    ):
        refused = lab.do(Up(recreate=(name,)))
        assert refused.refused
        assert refused.faults[0].message.startswith(message)
        assert hint in (refused.faults[0].hint or "")
    assert not [call for call in lab.drivers.calls if call.startswith(("reset_", "shut_", "start_"))]


def test_a_disk_that_is_no_overlay_is_refused(lab: Lab) -> None:
    db = "db\n    interfaces: [{bridge: br1}]\n    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {"
    disk = "existing_disk: {path: mine.qcow2, driver_type: qcow2, create_deep_copy: true}}}"
    base = next(lab.folder.glob("artefacts/images/*")).resolve()
    (lab.folder / "mine.qcow2").write_bytes(base.read_bytes())
    lab.bench.edit(f"{db}cloud_image: {{name: debian_12}}}}}}", db.replace("db", "copy", 1) + disk)
    lab.bench.generate()
    lab.must(Up())
    refused = lab.do(Up(recreate=("copy",)))
    assert refused.refused
    assert "exists nowhere else" in refused.faults[0].message
