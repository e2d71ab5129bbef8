"""Up and down on a fake host: what they do, in which order, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Exec, Power, PowerVerb, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState, Level, Phase
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeBridge

if TYPE_CHECKING:
    from conftest import Lab

#: The beginning of one machine's entry in the YAML.
WEB = """\
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
"""

GUESTS = {"web", "db", "alone", "worker-0", "worker-1"}


def test_a_testbed_without_containers_asks_no_engine(lab: Lab) -> None:
    lab.drivers.failures.append(Failure("*_containers"))
    lab.must(Up())
    assert lab.status().differences == ()
    lab.must(Down())
    assert not [each for each in lab.drivers.calls if each.endswith("containers")]


def test_up_brings_up_all_that_can_run(lab: Lab) -> None:
    action = lab.must(Up())
    assert lab.running() == GUESTS
    assert lab.deployment.state is Phase.UP
    warnings = [line.text for line in lab.log(action) if line.level is Level.WARNING]
    assert any("cannot be reached from the main host: alone" in text for text in warnings)
    assert len(warnings) == 1
    assert lab.world.networks == {"lab-network": "lab"}
    assert len(lab.world.bridges["lab"]) == 3
    assert len(lab.world.links) == 4  # one pair to the network, one between br0 and br1
    assert lab.world.projects == {"lab": str(lab.folder)}


def test_stages_come_in_order(lab: Lab) -> None:
    action = lab.must(Up())
    stages = list(dict.fromkeys(step.stage for step in lab.store.steps(action.uuid)))
    assert stages == ["check", "network", "golden", "guests", "setup", "run", "verify"]


def test_a_golden_image_is_set_up_once_and_stays_off(lab: Lab) -> None:
    lab.must(Up())
    assert "worker" not in lab.running()
    assert lab.world.disks[lab.disk("worker-cloud-init.img")].frozen
    lab.must(Down())
    again = lab.must(Up())
    assert not any("worker:" in step.name for step in lab.store.steps(again.uuid))
    assert "start_domain:lab-worker" in lab.drivers.calls
    assert lab.drivers.calls.count("start_domain:lab-worker") == 1


def test_setup_scripts_run_once_and_run_scripts_each_time(lab: Lab) -> None:
    def scripts() -> list[str]:
        found = [call for call in lab.drivers.calls if call.startswith("run:") and call.endswith(".sh")]
        lab.drivers.calls.clear()
        return sorted(call for call in found if "/done/" not in call)

    lab.must(Up())
    assert scripts() == [
        "run:web:/etc/nocloud/run/00-run.sh",
        "run:web:/etc/nocloud/setup/00-setup.sh",
        "run:worker-0:/etc/nocloud/setup/00-clone.sh",
        "run:worker-1:/etc/nocloud/run/00-run.sh",
        "run:worker-1:/etc/nocloud/setup/00-clone.sh",
        "run:worker:/etc/nocloud/setup/00-shared.sh",
    ]
    lab.must(Down())
    scripts()
    lab.must(Up())
    assert scripts() == ["run:web:/etc/nocloud/run/00-run.sh", "run:worker-1:/etc/nocloud/run/00-run.sh"]
    lab.must(Up(rerun_scripts=True))
    assert "run:web:/etc/nocloud/setup/00-setup.sh" in scripts()


def test_up_of_what_is_up_does_nothing_and_says_so(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.calls.clear()
    action = lab.must(Up())
    assert "is up already" in lab.text(action)
    changing = ("start_", "apply_", "remove_", "destroy_", "shut_", "undefine_", "link_", "run:", "set_")
    assert not [call for call in lab.drivers.calls if call.startswith(changing)]


def test_up_starts_a_guest_that_went_off(lab: Lab) -> None:
    lab.must(Up())
    lab.world.domains["lab-db"].started = 0
    assert "guest db: is shut off" in lab.status().differences
    assert lab.status().deployment.condition == "degraded"
    lab.drivers.calls.clear()
    lab.must(Up())
    assert lab.running() == GUESTS
    assert [call for call in lab.drivers.calls if call.startswith("start_domain")] == ["start_domain:lab-db"]


def test_up_makes_good_a_bridge_that_went_away(lab: Lab) -> None:
    lab.must(Up())
    name = next(iter(lab.world.bridges["lab"]))
    del lab.world.bridges["lab"][name]
    lab.must(Up())
    assert name in lab.world.bridges["lab"]


def test_down_leaves_nothing_but_disks(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down())
    lab.assert_clean()
    assert lab.deployment.state is Phase.DOWN
    assert lab.store.deployed("lab") is None
    assert lab.world.disks[lab.disk("web-cloud-init.img")].written


def test_down_of_what_is_down_is_no_error(lab: Lab) -> None:
    lab.must(Down())
    lab.assert_clean()


def test_purge_removes_disks_clones_first(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down(purge=True))
    removed = [call for call in lab.drivers.calls if call.startswith("remove_disk:")]
    assert removed.index("remove_disk:worker-0-linked-clone.qcow2") < removed.index(
        "remove_disk:worker-cloud-init.img"
    )
    assert "remove_disk:web-cloud-init.img" in removed
    assert not lab.world.disks


def test_down_works_without_state_and_without_memory(lab: Lab) -> None:
    lab.must(Up())
    (lab.folder / "state.json").unlink()
    lab.store.set_deployed("lab", None)
    links = set(lab.world.links)
    lab.must(Down())
    assert not lab.world.domains
    assert not lab.world.bridges
    assert not lab.world.networks
    assert lab.world.links.keys() == links  # nobody knows their names any more


def test_down_takes_down_what_was_brought_up_not_what_was_edited_since(lab: Lab) -> None:
    lab.must(Up())
    lab.bench.edit("name: db", "name: database")
    lab.bench.generate()
    lab.must(Down())
    lab.assert_clean()


def test_up_after_an_edit_restarts_that_guest_alone(lab: Lab) -> None:
    lab.must(Up())
    started = {name: domain.started for name, domain in lab.world.domains.items()}
    lab.bench.edit(WEB, WEB.replace("cpus: 1", "cpus: 2"))
    lab.bench.generate()
    assert lab.status().differences == ("guest web: cpus: 1 -> 2",)
    lab.drivers.calls.clear()
    action = lab.must(Up())
    changing = ("start_", "change_", "apply_", "remove_", "destroy_", "shut_", "undefine_", "update_", "put")
    assert [call for call in lab.drivers.calls if call.startswith(changing)] == [
        "shut_down_domain:lab-web",
        "destroy_domain:lab-web",
        "start_domain:lab-web",
    ]
    changed = {name for name, domain in lab.world.domains.items() if domain.started != started[name]}
    assert changed == {"lab-web"}
    steps = [step.name for step in lab.store.steps(action.uuid)]
    assert steps == ["check", "stop:web", "start:web", "wait:web", "run:web:00-run.sh", "verify"]
    assert lab.status().differences == ()


def test_a_guest_is_added_and_one_removed(lab: Lab) -> None:
    lab.must(Up())
    started = {name: domain.started for name, domain in lab.world.domains.items()}
    lab.bench.edit("name: db", "name: database")
    lab.bench.generate()
    assert {"guest db: not in the testbed any more", "guest database: new"} <= set(lab.status().differences)
    action = lab.must(Up())
    assert "`id: db` at database keeps its disk" in lab.text(action)
    assert lab.running() == GUESTS - {"db"} | {"database"}
    assert "lab-db" not in lab.world.domains
    kept = started.keys() - {"lab-db"}
    assert {name: lab.world.domains[name].started for name in kept} == {name: started[name] for name in kept}
    assert lab.status().differences == ()
    assert lab.disk("db-cloud-init.img") in lab.world.disks  # what it wrote stays


def test_a_domain_edited_by_hand_restarts_its_guest(lab: Lab) -> None:
    lab.must(Up())
    path = lab.bench.path("web-domain.xml")
    path.write_text(path.read_text().replace("</devices>", "<memballoon model='none'/></devices>"))
    assert lab.status().differences == ("guest web: artefacts/web-domain.xml has changed",)
    action = lab.must(Up())
    assert "stop:web" in {step.name for step in lab.store.steps(action.uuid)}
    assert lab.status().differences == ()


def test_a_guest_that_is_off_may_have_changed(lab: Lab) -> None:
    lab.must(Up())
    lab.world.domains["lab-web"].started = 0
    lab.bench.edit("setup_script: setup.sh", "environment: {A: b}, setup_script: setup.sh")
    lab.bench.generate()
    lab.must(Up())
    assert lab.running() == GUESTS


def test_a_changed_shared_setup_makes_the_image_and_its_clones_anew_when_told(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down())
    (lab.folder / "shared.sh").write_text("#!/bin/sh\necho another\n")
    lab.bench.generate()
    refused = lab.do(Up())
    assert refused.refused
    assert "worker-0, worker-1" in refused.faults[0].message
    assert "--reset-clones" in (refused.faults[0].hint or "")
    lab.must(Up(reset_clones=True))
    assert lab.drivers.calls.count("start_domain:lab-worker") == 2
    assert lab.drivers.calls.count("reset_overlay:worker-0-linked-clone.qcow2") == 1


@pytest.mark.parametrize("named", [(), ("worker-1",)])
def test_clones_that_run_are_replaced_with_their_golden_image(lab: Lab, named: tuple[str, ...]) -> None:
    """Their disks are overlays: they are off before it changes, whichever is named, then set up again."""
    lab.must(Up())
    before = {name: each.started for name, each in lab.world.domains.items()}
    (lab.folder / "shared.sh").write_text("#!/bin/sh\necho another\n")
    lab.bench.generate()
    assert lab.do(Up()).refused
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",)))
    calls = len(lab.drivers.calls)
    lab.must(Up(reset_clones=True, no_restart=True, guests=named))
    assert {name: each.started for name, each in lab.world.domains.items() if name != "lab-db"} == {
        name: started for name, started in before.items() if name != "lab-db"
    }
    said = lab.text(lab.must(Up(reset_clones=True, guests=named)))
    done = lab.drivers.calls[calls:]
    for clone in ("worker-0", "worker-1"):
        assert f"guest {clone}: replace: golden image worker changed" in said
        assert done.index(f"shut_down_domain:lab-{clone}") < done.index("start_domain:lab-worker")
        assert done.index("start_domain:lab-worker") < done.index(f"start_domain:lab-{clone}")
    assert len([call for call in done if "/setup/00-clone.sh" in call]) == 2
    assert lab.world.domains["lab-web"].started == before["lab-web"]
    assert lab.status().differences == ()
    assert "nothing to do" in lab.text(lab.must(Up()))


def test_scripts_of_guests_that_cannot_be_reached_are_refused_before_anything_is_done(lab: Lab) -> None:
    lab.bench.edit(WEB, WEB.replace("br0", "br2"))
    lab.bench.generate()
    action = lab.do(Up())
    assert action.refused
    assert "web has scripts to run, but cannot be reached" in action.faults[0].message
    assert lab.deployment.state is Phase.DOWN
    lab.assert_clean()


def test_up_without_a_build_is_refused(lab: Lab) -> None:
    lab.bench.path("web-domain.xml").unlink()
    action = lab.do(Up())
    assert action.refused
    assert action.faults[0].message == "artefacts are missing: artefacts/web-domain.xml"
    (lab.folder / "state.json").unlink()
    action = lab.do(Up())
    assert action.refused
    assert "kvm-compose generate" in (action.faults[0].hint or "")


def test_bridges_of_somebody_else_are_left_alone(lab: Lab) -> None:
    lab.world.bridges["other"] = {"lab-br0": FakeBridge()}
    action = lab.do(Up())
    assert action.refused
    assert "taken by other Open vSwitch bridges: lab-br0" in action.faults[0].message
    assert lab.world.bridges == {"other": {"lab-br0": FakeBridge()}}


def test_snapshots_outlive_down(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("db",)))
    lab.must(Down())
    assert "before" in lab.store.snapshots("lab", "db")[0]
    lab.must(Up())
    assert list(lab.world.domains["lab-db"].snapshots) == ["before"]
    refused = lab.do(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("db", "web")))
    assert refused.refused
    assert "db has a snapshot before already" in refused.faults[0].message
    assert not lab.world.domains["lab-web"].snapshots
    lab.must(Snapshot(verb=SnapshotVerb.RESTORE, name="before", guests=("db",)))
    assert "disconnect:lab-db" in lab.drivers.calls
    lab.must(Snapshot(verb=SnapshotVerb.DELETE, name="before", guests=("db",)))
    unknown = lab.do(Snapshot(verb=SnapshotVerb.RESTORE, name="before", guests=("db",)))
    assert unknown.refused
    assert lab.deployment.state is Phase.UP


def test_exec_gives_output_and_status(lab: Lab) -> None:
    lab.must(Up())
    action = lab.must(Exec(guest="web", argv=("echo", "a b", "c")))
    assert action.exit_status == 0
    assert [line.text for line in lab.log(action) if line.level is Level.OUTPUT] == ["a b c"]
    assert lab.must(Exec(guest="web", argv=("false",))).exit_status == 1
    slow = lab.do(Exec(guest="web", argv=("sleep", "30"), timeout=0.05))
    assert slow.state is ActionState.FAILED
    lab.drivers.failures = [Failure("domains:*", 1)]  # libvirt does not answer, the guest does
    assert lab.must(Exec(guest="web", argv=("true",))).exit_status == 0
    unknown = lab.do(Exec(guest="wev", argv=("true",)))
    assert unknown.refused
    assert lab.deployment.state is Phase.UP
