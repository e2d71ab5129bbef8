"""Containers on simulated hosts: what differs is changed, and nothing else."""

from __future__ import annotations

import asyncio
import io
import tarfile
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Capture, Down, Exec, Power, PowerVerb, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState, Phase
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.planned import PlanRequest
from kvmcompose.hosts.errors import NoSuchPathError
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeContainer
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from conftest import Lab
    from golden.bench import Bench

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker: {image: "tiny:1", command: [sleep, "4444"], environment: {GREETING: hello}}
  - name: db
    interfaces: [{bridge: br1}]
    docker: {image: "tiny:1", command: [sleep, "4444"], setup_script: setup.sh, run_script: run.sh}
  - name: worker
    docker:
      image: "other:1"
      environment: {NUMBER: "1"}
      scaling: {count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
"""
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
ALL = {"web", "db", "worker-0", "worker-1"}


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return built_project(tmp_path_factory.mktemp("containers"), YAML, CONFIG, ("setup", "run"))


@pytest.fixture
def lab(containers: Bench, new_lab: type[Lab], tmp_path: Path) -> Iterator[Lab]:
    with new_lab.copied(containers, tmp_path) as lab:
        yield lab


def of(lab: Lab, guest: str) -> FakeContainer:
    return lab.world.containers[f"lab-{guest}"]


def running(lab: Lab) -> set[str]:
    return {each.guest for each in lab.world.containers.values() if each.state == "running"}


def ids(lab: Lab) -> dict[str, str]:
    return {name: each.id for name, each in lab.world.containers.items()}


def differences(lab: Lab) -> list[str]:
    return list(lab.status().differences)


def ports(lab: Lab) -> dict[str, str]:
    bridges = lab.world.bridges.get("lab", {})
    found = {port: name for name, bridge in bridges.items() for port in bridge.ports}
    return {end: found.get(end, "") for each in lab.world.containers.values() for end in each.nics}


def test_up_and_down(lab: Lab) -> None:
    lab.must(Up())
    assert running(lab) == ALL
    assert sorted(ports(lab).values()) == ["lab-br0", "lab-br0", "lab-br0", "lab-br1"]
    assert lab.drivers.calls.count("pull:tiny:1") == 1
    asked = [each.partition(":")[0] for each in lab.drivers.calls]
    # one is looked at before its scripts run
    assert [asked.count(each) for each in ("create_container", "start_container", "container")] == [4, 4, 1]
    assert asked.count("observe_containers") == asked.count("observe_nics") == 2  # before, and after
    assert of(lab, "web").request["Env"] == ["GREETING=hello"]
    status = lab.status()
    assert {guest.memory_mb for guest in status.guests if guest.kind == "docker"} == {8}
    assert all(guest.cpu is not None for guest in status.guests if guest.kind == "docker")
    assert status.differences == ()
    assert {each.name: each.state for each in status.guests} == dict.fromkeys(ALL, "running")
    assert {each.runtime for each in status.guests} == {"containers"}
    lab.drivers.calls.clear()
    assert "nothing to do" in lab.text(lab.must(Up()))
    assert not [each for each in lab.drivers.calls if "facts" in each and "engine" not in each]  # libvirt's
    lab.must(Down())
    images, lab.world.images = lab.world.images, {}
    assert len(images) == 2
    lab.assert_clean()


def test_another_environment_replaces_one_container(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    lab.edit("GREETING: hello", "GREETING: bonjour")
    planned = asyncio.run(lab.orchestrator.plan(lab.deployment, PlanRequest(state=msgspec.Raw(b"null"))))
    (web,) = (each for each in planned.changes if each.kind == "container")
    assert (web.guest, web.loses) == ("web", "files that it wrote outside of its volumes are lost")
    action = lab.must(Up())
    assert f"guest web: replace: environment GREETING changed; {web.loses}" in lab.text(action)
    assert "bonjour" not in lab.text(action)
    changed = {name for name, each in ids(lab).items() if each != before[name]}
    assert changed == {"lab-web"}
    assert of(lab, "web").request["Env"] == ["GREETING=bonjour"]
    assert differences(lab) == []


def test_what_was_killed_lost_or_removed_comes_back(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    web, worker = of(lab, "web"), of(lab, "worker-0")
    (end,) = worker.nics
    web.state, web.pid, web.exit_code, web.reason = "exited", 0, 137, "killed by SIGKILL"
    web.nics.clear()
    del worker.nics[end]
    del lab.world.links[end]
    del lab.world.containers["lab-worker-1"]
    assert differences(lab) == [
        "guest web: is shut off (killed by SIGKILL)",
        "guest worker-0: interface eth0 is missing",
        "guest worker-1: is missing",
    ]
    action = lab.must(Up())
    assert "guest worker-0: repair: interface eth0 is missing" in lab.text(action)
    assert running(lab) == ALL
    assert differences(lab) == []
    assert {name for name, each in ids(lab).items() if each != before[name]} == {"lab-worker-1"}


def test_what_was_edited_in_its_request_replaces_it(lab: Lab) -> None:
    lab.must(Up())
    path = lab.folder / "artefacts" / "db-container.json"
    path.write_text(path.read_text().replace("4444", "5555"))
    action = lab.must(Up())
    assert "guest db: replace: artefacts/db-container.json has changed" in lab.text(action)
    assert of(lab, "db").request["Cmd"] == ["sleep", "5555"]


def test_scripts_run_once_and_at_each_start(lab: Lab) -> None:
    def ran() -> list[str]:
        found = [line for each in lab.store.actions("lab") for line in lab.log(each)]
        return [each.text for each in found if "/etc/nocloud/" in each.text]

    lab.must(Up())
    steps = [step.name for step in lab.store.steps(lab.deployment.last_action_uuid or "")]
    assert "setup:db:00-setup.sh" in steps
    assert "run:db:00-run.sh" in steps
    action = lab.must(Power(verb=PowerVerb.RESTART, guests=("db",)))
    steps = [step.name for step in lab.store.steps(action.uuid)]
    assert "run:db:00-run.sh" in steps
    assert "setup:db:00-setup.sh" not in steps
    assert ran


def test_an_engine_that_was_killed_while_it_started_a_container(lab: Lab) -> None:
    """One that has never run is made again; one that has written something is the user's to give up."""
    lab.must(Up())
    before = ids(lab)
    for guest, started in (("web", 0.0), ("db", 7.0)):
        each = of(lab, guest)
        each.state, each.pid, each.started, each.half_started = "created", 0, started, True
        each.nics.clear()
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    assert "kvm-compose up --recreate db makes another one" in str(action.faults)
    assert running(lab) == ALL - {"db"}
    lab.must(Up(recreate=("db",)))
    assert {name for name, each in ids(lab).items() if each != before[name]} == {"lab-web", "lab-db"}
    assert running(lab) == ALL
    assert differences(lab) == []


def test_power(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    lab.must(Power(verb=PowerVerb.PAUSE, guests=("web",)))
    assert of(lab, "web").state == "paused"
    lab.must(Power(verb=PowerVerb.STOP, guests=("db",)))
    assert of(lab, "db").state == "exited"
    assert "nothing to do" in lab.text(lab.must(Up()))
    assert differences(lab) == []
    for name, hint in (("web", "kvm-compose resume web"), ("db", "kvm-compose start db")):
        (fault,) = lab.do(Exec(guest=name, argv=("true",))).faults
        assert fault.hint == hint  # not `up`, which leaves them
    lab.must(Power(verb=PowerVerb.RESUME, guests=("web",)))
    lab.must(Power(verb=PowerVerb.START, guests=("db",)))
    assert running(lab) == ALL
    assert ids(lab) == before


def test_recreated(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    lab.must(Up(recreate=("worker-1",)))
    assert {name for name, each in ids(lab).items() if each != before[name]} == {"lab-worker-1"}
    assert running(lab) == ALL
    lab.must(Power(verb=PowerVerb.STOP, guests=("web",)))
    action = lab.do(Up(recreate=("web",)))
    assert action.state is ActionState.FAILED or action.state.value == "refused", action
    assert "web is shut off, as was asked for" in str(action.faults)


def test_others_containers_are_left_alone(lab: Lab) -> None:
    foreign = FakeContainer(project="", guest="", id="f" * 64, state="running", pid=77)
    lab.world.containers["lab-web"] = foreign
    action = lab.do(Up())
    assert "names are taken by other containers: lab-web" in str(action.faults)
    lab.must(Down())
    assert lab.world.containers == {"lab-web": foreign}


def test_moved_to_another_bridge(lab: Lab) -> None:
    lab.must(Up())
    before = ids(lab)
    lab.edit("interfaces: [{bridge: br1}]", "interfaces: [{bridge: br0}, {bridge: br1}]")
    lab.must(Up())
    assert len(of(lab, "db").nics) == 2
    assert ids(lab) == before
    lab.edit("interfaces: [{bridge: br0}, {bridge: br1}]", "interfaces: [{bridge: br0}]")
    lab.must(Up())
    assert len(of(lab, "db").nics) == 1
    assert set(ports(lab).values()) == {"lab-br0"}
    assert ids(lab) == before
    assert differences(lab) == []


def test_one_that_fails_does_not_take_others_with_it(lab: Lab) -> None:
    lab.drivers.failures.append(Failure("start_container:lab-web"))
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    assert running(lab) == ALL - {"web"}
    lab.drivers.failures.clear()
    lab.must(Up())
    assert running(lab) == ALL


def test_files_are_copied_and_programs_know_the_engine(lab: Lab) -> None:
    lab.must(Up())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("page")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))

    async def archive() -> AsyncIterator[bytes]:
        yield buffer.getvalue()

    async def copy() -> bytes:
        await lab.orchestrator.put_files(lab.deployment, "web", "/srv", archive())
        return b"".join([each async for each in lab.orchestrator.get_files(lab.deployment, "web", "/srv")])

    with tarfile.open(fileobj=io.BytesIO(asyncio.run(copy()))) as tar:
        assert tar.getnames() == ["srv/page"]
    assert of(lab, "web").files == {"/srv/page": "hello"}

    async def missing() -> None:
        async for _ in lab.orchestrator.get_files(lab.deployment, "web", "/nothing"):
            pass

    with pytest.raises(NoSuchPathError):
        asyncio.run(missing())
    access = {each.name: each for each in asyncio.run(lab.orchestrator.access(lab.deployment))}
    assert {each.domain for each in access.values()} == {f"lab-{name}" for name in ALL}
    assert {each.engine.program for each in access.values() if each.engine} == {"docker"}
    lab.drivers.failures.append(Failure("*engine_facts"))
    (web, *_) = asyncio.run(lab.orchestrator.access(lab.deployment))
    assert web.engine is None


def test_packets_are_captured_at_the_host_end_of_an_interface(lab: Lab) -> None:
    lab.must(Up())

    async def capture(target: str) -> list[str]:
        lab.drivers.calls.clear()
        stream = await lab.orchestrator.capture(lab.deployment, Capture(target=target, count=1))
        async for _ in stream:
            pass
        await stream.close()
        return [each for each in lab.drivers.calls if "capture" in each]

    for guest in ("web", "worker-1"):
        (end,) = of(lab, guest).nics
        assert asyncio.run(capture(guest)) == [f"capture:{end}"]
    web = of(lab, "web")
    web.state, web.pid = "exited", 0
    with pytest.raises(RefusedError, match="web is shut off"):
        asyncio.run(capture("web"))


def test_snapshots_are_images_that_are_restored_and_kept(lab: Lab) -> None:
    def shown() -> list[tuple[str, str, bool]]:
        found = asyncio.run(lab.orchestrator.snapshots(lab.deployment))
        assert all(each.created.endswith("Z") and each.state == "running" for each in found)
        return [(each.guest, each.name, each.current) for each in found]

    lab.must(Up())
    of(lab, "web").files["/data"] = "old"
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("web", "db")))
    assert shown() == [("web", "before", False), ("db", "before", False)]
    of(lab, "web").files["/data"] = "new"
    lab.edit("GREETING: hello", "GREETING: bonjour")
    lab.must(Up())
    assert of(lab, "web").files == {}
    before = ids(lab)
    lab.must(Snapshot(verb=SnapshotVerb.RESTORE, name="before", guests=("web",)))
    assert of(lab, "web").files == {"/data": "old"}
    assert of(lab, "web").request["Env"] == ["GREETING=bonjour"]
    assert {name for name, each in ids(lab).items() if each != before[name]} == {"lab-web"}
    assert len(of(lab, "web").nics) == 1
    assert shown() == [("web", "before", True), ("db", "before", False)]
    assert differences(lab) == []
    assert "nothing to do" in lab.text(lab.must(Up()))
    lab.must(Down())
    assert {each[:2] for each in shown()} == {("web", "before"), ("db", "before")}
    lab.must(Up())
    lab.must(Snapshot(verb=SnapshotVerb.DELETE, name="before", guests=("db",)))
    assert shown() == [("web", "before", False)]
    (fault,) = lab.do(Snapshot(verb=SnapshotVerb.RESTORE, name="before")).faults
    assert (fault.message, fault.hint) == (
        "these have no snapshot before: db, worker-0, worker-1",
        "kvm-compose snapshot restore -n web before",
    )
    (fault,) = lab.do(Snapshot(verb=SnapshotVerb.DELETE, name="befor")).faults
    assert fault.message == "no guest of lab has a snapshot befor"
    for verb, name, message in (
        (SnapshotVerb.CREATE, "two words", "it is the tag of an image"),
        (SnapshotVerb.CREATE, "before", "web has a snapshot before already"),
        (SnapshotVerb.RESTORE, "other", "web has no snapshot other"),
    ):
        action = lab.do(Snapshot(verb=verb, name=name, guests=("web",)))
        assert message in str(action.faults)
    lab.must(Down(purge=True))
    assert shown() == []
    assert not [tag for each in lab.world.images.values() for tag in each.tags if "snapshots" in tag]


@pytest.mark.parametrize("call", ["create_container:lab-web", "start_container:lab-web"])
def test_a_restore_that_was_cut_short_goes_on_at_the_next_up(lab: Lab, call: str) -> None:
    lab.must(Up())
    of(lab, "web").files["/data"] = "old"
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("web",)))
    of(lab, "web").files["/data"] = "new"
    lab.drivers.failures.append(Failure(call))
    assert (
        lab.do(Snapshot(verb=SnapshotVerb.RESTORE, name="before", guests=("web",))).state
        is ActionState.FAILED
    )
    assert lab.do(Up()).state is ActionState.FAILED
    lab.restart()
    lab.must(Up())
    assert of(lab, "web").files == {"/data": "old"}
    assert differences(lab) == []
    # once it is done, a container that is lost begins as its image, as ever
    lab.world.containers.pop("lab-web")
    lab.must(Up())
    assert of(lab, "web").files == {}


def test_a_restore_that_was_cut_short_is_forgotten_with_the_testbed(lab: Lab) -> None:
    lab.must(Up())
    of(lab, "web").files["/data"] = "old"
    lab.must(Snapshot(verb=SnapshotVerb.CREATE, name="before", guests=("web",)))
    lab.drivers.failures.append(Failure("create_container:lab-web", 1))
    assert (
        lab.do(Snapshot(verb=SnapshotVerb.RESTORE, name="before", guests=("web",))).state
        is ActionState.FAILED
    )
    lab.must(Down())
    lab.must(Up())
    assert of(lab, "web").files == {}


def test_nothing_is_stopped_for_an_image_that_cannot_be_had(lab: Lab) -> None:
    lab.must(Up())
    before, deployed = ids(lab), lab.store.deployed("lab")
    lab.edit('"tiny:1", command: [sleep, "4444"], env', '"nothere:2", command: [sleep, "4444"], env')
    lab.edit('NUMBER: "1"', 'NUMBER: "2"')
    lab.drivers.failures.append(Failure("pull:nothere:2"))
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    assert action.refused
    assert "nothing was changed, as this cannot be had: nothere:2" in str(action.faults)
    assert ids(lab) == before
    assert running(lab) == ALL
    assert lab.store.deployed("lab") == deployed
    assert lab.deployment.state is Phase.UP
    # with keep_going the others change, and those that need it run on
    action = lab.do(Up(keep_going=True))
    assert action.state is ActionState.FAILED
    assert running(lab) == ALL
    assert {name for name, each in ids(lab).items() if each == before[name]} == {"lab-web", "lab-db"}
    lab.drivers.failures.clear()
    lab.must(Up())
    assert of(lab, "web").request["Image"] == "nothere:2"
    assert differences(lab) == []
