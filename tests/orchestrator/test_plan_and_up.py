"""What a plan says before anything is built is what ``up`` then does, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from golden.bench import Bench, environment
from kvmcompose.build.ledger import close_ledgers
from kvmcompose.build.project import Project
from kvmcompose.build.project_inputs import Where
from kvmcompose.build.to_be_made import plan_request
from kvmcompose.cli._what_runs import show
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import Action, StepState
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.planned import PlannedChange, PlanRequest, TestbedPlan
from kvmcompose.core.resource import Verb
from kvmcompose.hosts.fake_world import FakeDisk
from kvmcompose.monitor.console import Console
from kvmcompose.server.orchestrator.resources import providers
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from conftest import Lab

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12, setup_script: setup.sh, run_script: run.sh}}
  - name: db
    interfaces: [{bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: far
    interfaces: [{bridge: br2}]
    libvirt: {cpus: 2, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: worker
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12}}
      scaling:
        count: 2
        shared_setup: shared.sh
        interfaces: [{bridge: br0, clones: [0, 1]}]
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}]
  bridge_connections: {br0: br1}
  external_bridge: br0
testbed_options:
  placement: {pin: {br0: one, br1: one, br2: two}}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("two"), YAML, scripts=("setup", "run", "shared"))


@pytest.fixture
def fresh(
    two: Bench, tmp_path_factory: pytest.TempPathFactory, new_lab: type[Lab], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Lab]]:
    """Returns labs that are up, one for each example."""
    for name, value in environment(two.root).items():
        monkeypatch.setenv(name, value)
    with ExitStack() as labs:

        def make() -> Lab:
            lab = labs.enter_context(new_lab.copied(two, tmp_path_factory.mktemp("lab")))
            lab.must(Up())
            return lab

        yield make


def planned(lab: Lab, options: Up = Up(), *, built: bool = False) -> TestbedPlan:  # noqa: B008 (frozen)
    """The plan of what is in the folder (``built``), or of what the build would make of the YAML."""
    request = PlanRequest(options=options, state=b"null")  # type: ignore[arg-type] # as a client encodes it
    if not built:
        close_ledgers()
        project = Project(Where(directory=lab.folder))
        request = plan_request(project, project.plan(), options, compared=True)
        close_ledgers()
    return asyncio.run(lab.orchestrator.plan(lab.deployment, request))


Document = dict[str, Any]


def machine(document: Document, name: str) -> Document:
    return next(each for each in document["machines"] if each["name"] == name)


def more_memory(document: Document) -> None:
    machine(document, "web")["libvirt"]["memory_mb"] = 256


def other_bridge(document: Document) -> None:
    machine(document, "db")["interfaces"] = [{"bridge": "br0"}]


def guest_more(document: Document) -> None:
    new = {"cpus": 1, "memory_mb": 128, "libvirt_type": {"cloud_image": {"name": "debian_12"}}}
    document["machines"].append({"name": "new", "interfaces": [{"bridge": "br2"}], "libvirt": new})


def guest_less(document: Document) -> None:
    document["machines"].remove(machine(document, "far"))


def no_connection(document: Document) -> None:
    del document["network"]["bridge_connections"]


def bridge_more(document: Document) -> None:
    document["network"]["bridges"].append({"name": "br3"})
    document["testbed_options"]["placement"]["pin"]["br3"] = "one"


def controller(document: Document) -> None:
    document["network"]["bridges"][1]["controller"] = "tcp:127.0.0.1:6653"


def other_script(document: Document) -> None:
    machine(document, "web")["libvirt"]["libvirt_type"]["cloud_image"]["run_script"] = "setup.sh"


def clone_more(document: Document) -> None:
    scaling = machine(document, "worker")["libvirt"]["scaling"]
    scaling |= {"count": 3, "interfaces": [{"bridge": "br0", "clones": [0, 1, 2]}]}


EDITS: tuple[Callable[[Document], None], ...] = (
    more_memory, other_bridge, guest_more, guest_less, no_connection, bridge_more, controller, other_script,
    clone_more,
)  # fmt: skip
OPTIONS = (Up(), Up(no_restart=True), Up(no_repair=True), Up(rerun_scripts=True), Up(guests=("web",)))


def edit(lab: Lab, edits: tuple[Callable[[Document], None], ...]) -> None:
    document = yaml.safe_load(lab.bench.yaml.read_text())
    for each in edits:
        each(document)
    lab.bench.yaml.write_text(yaml.safe_dump(document, sort_keys=False))


def done(lab: Lab, action: Action) -> set[str]:
    """The steps of guests that an action did: starts and stops of golden images are part of making these."""
    steps = lab.store.steps(action.uuid)
    return {
        step.name
        for step in steps
        if step.name.partition(":")[0] in ("start", "stop", "update") and step.state is StepState.DONE
    }


def said(plan: TestbedPlan) -> set[str]:
    """The steps that a plan stands for."""
    found = set()
    for change in plan.due:
        if change.kind == "golden-image":
            found.add(f"start:{change.name}")
        if change.kind != "libvirt-domain":
            continue
        if change.verb in (Verb.RESTART, Verb.REPLACE, Verb.MOVE, Verb.REMOVE):
            found.add(f"stop:{change.guest}")
        if boots(change):
            found.add(f"start:{change.guest}")
        elif change.verb is not Verb.REMOVE:
            found.add(f"update:{change.guest}")
    return found


def boots(change: PlannedChange) -> bool:
    off = any(reason.before == "shut off" for reason in change.reasons)
    new = any(reason.code in ("new", "missing") for reason in change.reasons)
    return change.verb in (Verb.CREATE, Verb.RESTART, Verb.REPLACE, Verb.MOVE) or (
        change.verb is Verb.REPAIR and (off or new)
    )


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    edits=st.lists(st.sampled_from(EDITS), min_size=1, max_size=3, unique=True).map(tuple),
    options=st.sampled_from(OPTIONS),
)
@example(edits=(guest_more,), options=Up())
def test_up_does_what_the_plan_said(
    fresh: Callable[[], Lab], edits: tuple[Callable[[Document], None], ...], options: Up
) -> None:
    lab = fresh()
    edit(lab, edits)
    before = planned(lab, options)
    lab.bench.generate()
    after = planned(lab, options, built=True)
    assert (before.changes, before.refusals, before.digest) == (after.changes, after.refusals, after.digest)
    action = lab.do(options)
    if before.refusals:
        assert action.refused
        return
    assert action.state == "succeeded", action.faults
    assert done(lab, action) == said(before)
    stages = {step.stage for step in lab.store.steps(action.uuid)} - {"check", "verify"}
    assert stages <= {providers()[change.kind].STAGE for change in before.due}
    assert planned(lab, options, built=True).due == () or options.rerun_scripts


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def worlds(lab: Lab) -> bytes:
    """All hosts. Of disks that are only looked at, the fake has entries without content."""
    known = {
        name: msgspec.structs.replace(
            world, disks={path: disk for path, disk in world.disks.items() if disk != FakeDisk()}
        )
        for name, world in lab.drivers.worlds.items()
    }
    return msgspec.json.encode(known, order="deterministic")


def test_a_plan_changes_nothing(fresh: Callable[[], Lab]) -> None:
    lab = fresh()
    edit(lab, EDITS)
    before = worlds(lab)
    deployed, files = lab.store.deployed("lab"), contents(lab.folder)
    events = lab.store.last_number("lab")
    planned(lab)
    assert worlds(lab) == before
    assert contents(lab.folder) == files
    assert (lab.store.deployed("lab"), lab.store.last_number("lab")) == (deployed, events)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.replace(b'"lab-web"', b'"../../etc"'),
        lambda state: state.replace(b'"br0"', b'"br0;reboot"'),
        lambda state: b'{"version": 1}',
        lambda state: b"[]",
    ],
)
def test_a_state_that_no_build_wrote_is_refused(
    fresh: Callable[[], Lab], damage: Callable[[bytes], bytes]
) -> None:
    lab = fresh()
    state = damage((lab.folder / "state.json").read_bytes())
    with pytest.raises(KvmComposeError):
        asyncio.run(lab.orchestrator.plan(lab.deployment, PlanRequest(state=state)))  # type: ignore[arg-type]


GOLDEN = """\
update   bridge lab-br1 on one  (controller: (none) -> tcp:127.0.0.1:6653)
         touches db
replace  golden image worker on one  (its image or its scripts changed)
         touches worker-0, worker-1
update   files on two  (disk of new is missing; seed of new is missing)
restart  guest web on one  (memory_mb: 128 -> 256)
update   guest db on one  (bridge: br1 -> br0)
replace  guest worker-0 on one  (golden image worker changed)
replace  guest worker-1 on one  (golden image worker changed)
create   guest new on two
pending  update of set-up of web on one, waits for up --rerun-scripts  (setup script setup.sh has changed)
remove   link lab-br0-br1 on one  (not in the testbed any more)
         touches db
remove   port lab-br0-br1 on one  (not in the testbed any more)
         touches db
remove   port lab-br1-br0 on one  (not in the testbed any more)
         touches db
remove   guest far on two  (not in the testbed any more)
---
on hosts: 1 to create, 3 to update, 1 to restart, 3 to replace, 4 to remove, 1 pending, 5 guests boot
one: memory 512 -> 640 of 1048576 MiB
two: CPUs 2 -> 1 of 64, 0.1 MiB to send, disk 0.1 MiB of 1048576.0 GiB free
warning: cannot be reached from the main host: new; started, but not waited for
up would refuse: the golden image worker has to be set up again, and clones have data: worker-0, worker-1
    hint: up --reset-clones recreates these clones: what they wrote is lost
"""


def test_a_plan_in_words(fresh: Callable[[], Lab], capsys: pytest.CaptureFixture[str]) -> None:
    lab = fresh()
    edit(lab, (more_memory, other_bridge, guest_more, guest_less, no_connection, controller))
    for name in ("setup", "shared"):
        lab.bench.write(f"{name}.sh", "#!/bin/sh\nexit 0\n")
    bridge = lab.world.bridges["lab"]["lab-br0"]
    del bridge.ports[next(name for name in bridge.ports if name in lab.world.domains["lab-worker-1"].taps)]
    lab.world.domains["lab-worker-0"].paused = "I/O error: no space for vda"
    show(planned(lab), Console(colour=False))
    told = capsys.readouterr()
    text = re.sub(r"about [0-9.]+ s", "about … s", f"{told.out}---\n{told.err}")
    assert text == GOLDEN


def pin(lab: Lab, bridge: str, host: str) -> None:
    document = yaml.safe_load(lab.bench.yaml.read_text())
    document["testbed_options"]["placement"]["pin"][bridge] = host
    lab.bench.yaml.write_text(yaml.safe_dump(document, sort_keys=False))


def test_a_guest_that_moves_is_named_once_beside_its_disk(fresh: Callable[[], Lab]) -> None:
    lab = fresh()
    pin(lab, "br2", "one")
    shown = [each for each in planned(lab, Up()).due if not each.follows and each.guest == "far"]
    assert [(each.verb, each.kind) for each in shown] == [(Verb.MOVE, "disk"), (Verb.MOVE, "libvirt-domain")]


def test_an_external_bridge_elsewhere_than_the_nat_network_is_refused(fresh: Callable[[], Lab]) -> None:
    """No build places it there; a state may have been built by an earlier version."""
    lab = fresh()
    lab.bench.generate()
    state = json.loads((lab.folder / "state.json").read_text())
    (bridge,) = (each for each in state["network"]["bridges"] if each["name"] == "br0")
    bridge["testbed_host"] = "two"
    (lab.folder / "state.json").write_text(json.dumps(state, indent=2) + "\n")
    before = worlds(lab)
    assert lab.do(Up()).refused
    assert worlds(lab) == before


def clones_elsewhere(document: Document) -> None:
    machine(document, "worker")["libvirt"]["scaling"]["interfaces"] = [{"bridge": "br2", "clones": [0, 1]}]


def larger_clones(document: Document) -> None:
    machine(document, "worker")["libvirt"]["libvirt_type"]["cloud_image"]["expand_gigabytes"] = 2


def test_clones_on_another_host_grow_and_their_golden_image_there_is_left(fresh: Callable[[], Lab]) -> None:
    """It is a link to an image there, which is no disk to look at."""
    lab = fresh()
    edit(lab, (clones_elsewhere,))
    lab.bench.generate()
    lab.must(Up(reset_clones=True))
    lab.must(Down())
    edit(lab, (larger_clones,))
    assert planned(lab).refusals == ()
    lab.bench.generate()
    lab.must(Up())
    sizes = {disk.size for path, disk in lab.drivers.worlds["two"].disks.items() if "worker-" in path}
    assert min(sizes) > 2 << 30
