"""Up and down on three fake hosts: what each is sent, and that both go on from wherever one was cut off."""

from __future__ import annotations

import asyncio
import glob
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from golden.bench import Bench
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import Action, ActionState, Phase, StepState
from kvmcompose.effects.resources import schemas
from kvmcompose.hosts.blob_store import Inventory
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_blobs import FakeBlobStore
from kvmcompose.hosts.fake_world import FakeBridge, FakeDisk, World
from kvmcompose.hosts.transfer_plan import plan_transfers
from kvmcompose.pipeline.stored import read_state
from kvmcompose.server.actions import Actions
from orchestrator.kinds_of_calls import first_of_kinds
from orchestrator.projects import SCRIPT, built_project

if TYPE_CHECKING:
    from conftest import Lab

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12, run_script: run.sh}}
  - name: db
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12, setup_script: setup.sh}}
  - name: far
    interfaces: [{bridge: br2}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: worker
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12}}
      scaling:
        count: 4
        shared_setup: shared.sh
        interfaces:
          - {bridge: br0, clones: [0]}
          - {bridge: br1, clones: [1, 2]}
          - {bridge: br2, clones: [3]}
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}]
  bridge_connections: {br0: br1, br1: br2}
  external_bridge: br0
testbed_options:
  placement: {pin: {br0: one, br1: two, br2: three}}
"""

CONFIG = """\
{"testbed_host_ssh_config": {
   "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},
   "two": {"ip": "192.0.2.12", "user": "root", "virt_type": "qemu"},
   "three": {"ip": "192.0.2.13", "user": "root", "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""

GUESTS = {"web", "db", "far", "worker-0", "worker-1", "worker-2", "worker-3"}
#: Calls of the server that only look; what is refused has made no others.
LOOKING = {
    "check", "look", "facts",
    "foreign_domains", "foreign", "domains", "found_networks",
    "observe", "observe_bridges", "observe_links", "observe_management", "linked_folder", "foreign_ports",
    "pristine", "header", "measure", "signature", "leases", "snapshots",
    "arp_answering", "answers",
}  # fmt: skip


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("three"), YAML, CONFIG, scripts=("setup", "run", "shared"))


@pytest.fixture
def labs(three: Bench, tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    with new_lab.copied(three, tmp_path) as lab:
        yield lab


def running(lab: Lab) -> dict[str, set[str]]:
    """By host, whatever it is called."""
    return {
        name or "one": {domain.guest for domain in world.domains.values() if domain.started}
        for name, world in lab.drivers.worlds.items()
    }


PLACES = {"one": {"web", "worker-0"}, "two": {"db", "worker-1", "worker-2"}, "three": {"far", "worker-3"}}


def seen(lab: Lab) -> dict[str, object]:
    """What there is on the hosts; a disk that was looked at and never used is none."""
    worlds = {}
    for name, world in lab.drivers.worlds.items():
        disks = {path: disk for path, disk in world.disks.items() if disk.written or disk.frozen}
        worlds[name] = msgspec.to_builtins(msgspec.structs.replace(world, disks=disks))
    return {name: world for name, world in worlds.items() if world != msgspec.to_builtins(World())}


def assert_clean(lab: Lab) -> None:
    """Nothing is left on any host but disks and, where they were sent to, contents and files."""
    for name, world in lab.drivers.worlds.items():
        kept = World(disks=world.disks, blobs=world.blobs, delivered=world.delivered, homes=world.homes)
        assert msgspec.to_builtins(world) == msgspec.to_builtins(kept), name


def assert_purged(lab: Lab) -> None:
    assert_clean(lab)
    for name in ("two", "three"):
        assert lab.drivers.worlds[name].delivered == {}, name


def calls_of(lab: Lab, command: Up | Down) -> list[str]:
    """The calls of a run without failures, each name once, in order."""
    lab.drivers.calls.clear()
    lab.must(command)
    return [call for call in dict.fromkeys(lab.drivers.calls) if "wait_off:" not in call]


def tried(calls: list[str]) -> list[str]:
    """Those of the calls that are made to fail."""
    return [calls[at] for at in first_of_kinds(calls)]


def forget_contents(lab: Lab) -> None:
    """Contents outlive a purge; have them sent the next time, too."""
    for world in lab.drivers.worlds.values():
        world.blobs.clear()
    lab.drivers.keep()


def verb(call: str) -> str:
    return call.partition(":")[0].rpartition("/")[2]


def fail_at(lab: Lab, command: Up | Down, call: str) -> Action:
    lab.drivers.failures = [Failure(glob.escape(call), 1)]
    action = lab.do(command)
    assert lab.drivers.failures[0].left == 0, call
    assert action.state is ActionState.FAILED, call
    assert any(f"{call} was made to fail" in fault.message for fault in action.faults), (call, action.faults)
    return action


# -- when all goes well --------------------------------------------------------------------------------


def planned(lab: Lab) -> dict[str, tuple[set[str], tuple[str, ...]]]:
    """What ``plan`` says would be sent to each host, and what is not made yet."""
    state = read_state((lab.folder / "state.json").read_bytes(), schemas())
    found = plan_transfers(lab.folder, state)
    return {each.host: ({Path(file.path).name for file in each.files}, each.unmade) for each in found}


def test_what_would_be_sent_is_what_a_host_has_not(labs: Lab) -> None:
    first = planned(labs)
    assert set(first) == {"two", "three"}  # this host needs nothing sent
    assert "db-cloud-init.img" in first["two"][0]
    assert "far-cloud-init.img" in first["three"][0]
    assert "db-cloud-init.img" not in first["three"][0]
    assert all(any("worker" in path for path in unmade) for _, unmade in first.values())
    labs.must(Up())
    assert {host: files - {"worker-cloud-init.img"} for host, (files, _) in planned(labs).items()} == {
        "two": set(),
        "three": set(),
    }
    seed = labs.folder / "artefacts/far-cloud-init.iso"
    seed.write_bytes(seed.read_bytes() + b"more")
    assert planned(labs)["three"][0] == {"far-cloud-init.iso"}
    assert planned(labs)["two"][0] == set()


def test_up_and_down_and_up_again(labs: Lab) -> None:
    labs.must(Up())
    assert running(labs) == PLACES
    assert labs.deployment.state is Phase.UP
    labs.drivers.calls.clear()
    action = labs.must(Up())
    assert "is up already" in labs.text(action)
    assert {verb(call) for call in labs.drivers.calls} <= LOOKING
    labs.must(Down())
    assert_clean(labs)
    calls = calls_of(labs, Up())
    assert running(labs) == PLACES
    assert not [call for call in calls if verb(call) in ("store", "put")]  # all was there
    labs.must(Down(purge=True))
    assert_purged(labs)
    labs.must(Up())
    assert running(labs) == PLACES


def test_a_content_is_sent_to_each_host_once(labs: Lab) -> None:
    """The image and the golden image that lies on it, whatever the number of guests."""
    labs.must(Up())
    for name in ("two", "three"):
        stores = [call for call in labs.drivers.calls if call.startswith(f"{name}/store:")]
        assert len(stores) == len(set(stores)) == 2
        assert len(labs.drivers.worlds[name].blobs) == 2
    assert labs.drivers.worlds[""].blobs == {}


def test_what_has_arrived_of_a_content_needs_no_room_again(
    labs: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer that was cut off goes on where there is room for the rest alone."""
    labs.must(Up())
    sizes = dict(labs.drivers.worlds["two"].blobs)
    image = max(sizes, key=lambda digest: sizes[digest])
    rest = 1 << 20
    labs.must(Down(purge=True))
    forget_contents(labs)
    inspect = FakeBlobStore.inspect

    async def half(self: FakeBlobStore, project: str, home: str) -> Inventory:
        held = await inspect(self, project, home)
        return msgspec.structs.replace(held, parts=parts, room=sum(sizes.values()) + rest - sizes[image])

    monkeypatch.setattr(FakeBlobStore, "inspect", half)
    parts: dict[str, int] = {}
    refused = labs.do(Up())
    assert refused.refused
    assert "not enough free space" in refused.faults[0].message
    parts = {image: sizes[image]}
    labs.must(Up())


def test_twenty_clones_are_sent_one_golden_image(labs: Lab) -> None:
    labs.bench.edit("count: 4", "count: 20")
    labs.bench.edit("clones: [1, 2]", f"clones: {list(range(1, 11))}")
    labs.bench.edit("clones: [3]", f"clones: {list(range(11, 20))}")
    labs.bench.generate()
    labs.must(Up())
    assert {name: len(guests) for name, guests in running(labs).items()} == {"one": 2, "two": 11, "three": 10}
    assert labs.drivers.calls.count("start_domain:lab-worker") == 1
    for name in ("two", "three"):
        assert len([call for call in labs.drivers.calls if call.startswith(f"{name}/store:")]) == 2
        world = labs.drivers.worlds[name]
        linked = {digest for path, digest in world.delivered["lab"].items() if digest in world.blobs}
        assert linked == world.blobs.keys()


def test_only_what_was_built_anew_is_sent_again(labs: Lab) -> None:
    labs.must(Up())
    labs.must(Down())
    labs.bench.write("setup.sh", SCRIPT + "echo another\n", mode=0o755)
    labs.bench.generate()
    calls = calls_of(labs, Up())
    assert [call for call in calls if verb(call) in ("store", "put")] == [
        call for call in calls if call.startswith("two/put:artefacts/db") and "iso" in call
    ]
    assert [call for call in calls if verb(call) == "put"]


# -- disks ---------------------------------------------------------------------------------------------


def build_disk_anew(lab: Lab) -> None:
    """A disk of another image for db, which has been used."""
    lab.bench.edit(
        "cloud_image: {name: debian_12, setup_script: setup.sh}",
        "cloud_image: {name: ubuntu_22_04, setup_script: setup.sh}",
    )
    lab.bench.generate("--provision")


def test_a_disk_built_anew_does_not_overwrite_data(labs: Lab) -> None:
    labs.must(Up())
    labs.must(Down())
    build_disk_anew(labs)
    before = seen(labs)
    labs.drivers.calls.clear()
    action = labs.do(Up())
    assert action.refused
    assert [fault.message for fault in action.faults] == [
        "two: the disks of db were rebuilt, and those on the host have data"
    ]
    assert "--provision" in (action.faults[0].hint or "")
    assert {verb(call) for call in labs.drivers.calls} <= LOOKING
    assert seen(labs) == before
    labs.must(Up(provision=True))
    assert running(labs) == PLACES
    puts = [call for call in labs.drivers.calls if call.startswith("two/put:") and "db" in call]
    assert puts
    markers = labs.drivers.worlds["two"].disks[labs.disk("db-cloud-init.img", "two")].markers
    assert markers  # its set-up script has run on the new one


def test_a_guest_on_another_host_is_recreated_there(labs: Lab) -> None:
    labs.must(Up())
    disks = labs.drivers.worlds["two"].disks
    disk = labs.disk("db-cloud-init.img", "two")
    first = disks[disk].version
    labs.drivers.calls.clear()
    labs.must(Up(recreate=("db",)))
    assert labs.drivers.calls.count("two/reset_overlay:db-cloud-init.img") == 1
    assert not [call for call in labs.drivers.calls if verb(call) == "put"]
    assert disks[disk].version > first
    assert disks[disk].markers
    assert running(labs) == PLACES
    labs.drivers.calls.clear()
    labs.must(Up())
    assert {verb(call) for call in labs.drivers.calls} <= LOOKING


def test_disks_that_hold_no_data_are_sent_anew_without_a_word(labs: Lab) -> None:
    labs.drivers.failures = [Failure("two/start_domain:lab-db")]
    labs.do(Up())
    labs.drivers.failures = []
    labs.must(Down())
    build_disk_anew(labs)
    labs.must(Up())
    assert running(labs) == PLACES


def test_disks_of_guests_that_run_are_never_overwritten(labs: Lab) -> None:
    labs.must(Up())
    far = labs.drivers.worlds["three"].domains["lab-far"]
    far.started = 0
    # other bytes of the same disks, here
    for path in (labs.folder / "artefacts").glob("*-cloud-init.img"):
        if not path.is_symlink() and path.name.startswith("db"):
            path.write_bytes(path.read_bytes() + b"\0")
    labs.drivers.calls.clear()
    labs.do(Up())
    assert not [call for call in labs.drivers.calls if verb(call) == "put" and "db" in call]
    assert labs.drivers.worlds["two"].disks[labs.disk("db-cloud-init.img", "two")].written
    refused = labs.do(Up(provision=True))
    assert refused.refused
    assert any("no new disks while guests run on them" in fault.message for fault in refused.faults)


def test_a_changed_golden_image_goes_to_all_hosts(labs: Lab) -> None:
    labs.must(Up())
    labs.must(Down())
    labs.bench.write("shared.sh", SCRIPT + "echo another\n", mode=0o755)
    labs.bench.generate()
    refused = labs.do(Up())
    assert refused.refused
    assert all(f"worker-{number}" in refused.faults[0].message for number in range(4))
    labs.drivers.calls.clear()
    labs.must(Up(reset_clones=True))
    assert running(labs) == PLACES
    assert labs.drivers.calls.count("start_domain:lab-worker") == 1
    for host, clone in (("two", 1), ("two", 2), ("three", 3)):
        disk = f"worker-{clone}-linked-clone.qcow2"
        assert f"{host}/remove_disk:{disk}" in labs.drivers.calls
        assert [call for call in labs.drivers.calls if call.startswith(f"{host}/put:") and disk in call]


def test_a_golden_image_stays_when_its_address_changes(labs: Lab) -> None:
    """Nobody reaches it once it is frozen, and clones have addresses of their own."""
    labs.must(Up())
    labs.bench.edit("{name: br0}", "{name: br0, subnet: 10.9.0.0/24}")
    labs.bench.generate()
    labs.drivers.calls.clear()
    labs.must(Up())
    assert running(labs) == PLACES
    assert "start_domain:lab-worker" not in labs.drivers.calls
    assert labs.drivers.calls.count("start_domain:lab-worker-0") == 1
    labs.drivers.calls.clear()
    labs.must(Up())
    assert not [call for call in labs.drivers.calls if verb(call) not in LOOKING]


# -- whatever fails ------------------------------------------------------------------------------------


def test_every_call_of_up_may_fail(labs: Lab) -> None:
    calls = calls_of(labs, Up())
    labs.must(Down(purge=True))
    assert {call.partition("/")[0] for call in calls if "/" in call.partition(":")[0]} == {"two", "three"}
    assert {"store", "put", "link", "open_depot", "look"} <= {verb(call) for call in calls}
    for call in tried(calls):
        forget_contents(labs)
        action = fail_at(labs, Up(), call)
        fault = next(each for each in action.faults if f"{call} was made to fail" in each.message)
        host = call.partition("/")[0] if "/" in call.partition(":")[0] else "one"
        if not action.refused and verb(call) not in (
            "domains",
            "pristine",
            "delivered",
            "run",
            "wait_ready",
            "forget",
        ):
            assert fault.host == host, (call, fault)
        labs.must(Up())
        assert running(labs) == PLACES, call
        labs.must(Down(purge=True))
        assert_purged(labs)


def test_every_call_of_up_may_fail_and_down_leaves_nothing(labs: Lab) -> None:
    calls = calls_of(labs, Up())
    labs.must(Down(purge=True))
    for call in tried(calls):
        forget_contents(labs)
        fail_at(labs, Up(), call)
        labs.must(Down(purge=True))
        assert_purged(labs)
        assert labs.deployment.state is Phase.DOWN, call


@pytest.mark.parametrize("purge", [False, True])
def test_every_call_of_down_may_fail(labs: Lab, purge: bool) -> None:
    labs.must(Up())
    calls = calls_of(labs, Down(purge=purge))
    assert ("two/clear_depot:lab" in calls) == purge
    for call in tried(calls):
        labs.must(Up())
        fail_at(labs, Down(purge=purge), call)
        assert labs.deployment.state is Phase.FAILED
        labs.must(Down(purge=purge))
        (assert_purged if purge else assert_clean)(labs)


def test_up_goes_on_after_a_down_that_failed(labs: Lab) -> None:
    labs.must(Up())
    for call in tried(calls_of(labs, Down())):
        labs.must(Up())
        fail_at(labs, Down(), call)
        labs.must(Up())
        assert running(labs) == PLACES, call


@pytest.mark.parametrize("cut", ["cancelled", "killed"])
@pytest.mark.parametrize("command", [Up(), Down(purge=True)])
def test_cut_off_at_any_call_it_can_go_on_either_way(labs: Lab, command: Up | Down, cut: str) -> None:
    if isinstance(command, Down):
        labs.must(Up())
    labs.drivers.calls.clear()
    labs.must(command)
    for turn, at in enumerate(first_of_kinds(labs.drivers.calls[1:]), 1):
        after: Up | Down = Up() if turn % 2 else Down(purge=True)
        labs.must(Up() if isinstance(command, Down) else Down(purge=True))
        forget_contents(labs)
        (cancel_at if cut == "cancelled" else kill_at)(labs, command, at + 1)
        labs.must(after)
        if isinstance(after, Up):
            assert running(labs) == PLACES, at
            labs.must(Down(purge=True))
        assert_purged(labs)


def counting(lab: Lab, at: int, what: Callable[[], None]) -> None:
    """Do something at a call, counted from now on."""
    begun, call = len(lab.drivers.calls), lab.drivers.call

    async def counted(method: str, target: str = "") -> None:
        if len(lab.drivers.calls) - begun == at:
            what()
        await call(method, target)

    lab.drivers.call = counted  # type: ignore[method-assign]


def cancel_at(lab: Lab, command: Up | Down, at: int) -> None:
    async def run() -> None:
        actions = Actions(lab.store, lab.orchestrator)
        counting(lab, at, lambda: assert_true(actions.cancel(uuid)))
        try:
            uuid = actions.begin(lab.deployment, command).uuid
            await actions.wait(uuid)
        finally:
            del lab.drivers.call
        action = lab.store.action(uuid)
        assert action is not None
        assert action.state in (ActionState.CANCELLED, ActionState.SUCCEEDED), (at, action.faults)
        assert not [step.name for step in lab.store.steps(uuid) if step.state is StepState.RUNNING]

    asyncio.run(run())


def assert_true(_: bool) -> None:
    """Whether there was still something to cancel does not matter."""


def kill_at(lab: Lab, command: Up | Down, at: int) -> None:
    """In a process of its own, which ends there as if killed."""
    lab.store.close()
    child = os.fork()
    if child == 0:
        try:
            lab.restart()
            counting(lab, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            lab.do(command)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    lab.restart()
    assert lab.deployment.state is Phase.FAILED


# -- a host that is away -------------------------------------------------------------------------------


def test_up_without_one_of_the_hosts_is_refused_and_changes_nothing(labs: Lab) -> None:
    labs.drivers.failures = [Failure("two/*")]
    before = seen(labs)
    action = labs.do(Up())
    assert action.refused
    assert [fault.message for fault in action.faults] == ["two: two/linked_folder:lab was made to fail"]
    assert {verb(call) for call in labs.drivers.calls} <= LOOKING
    assert seen(labs) == before
    assert labs.deployment.state is Phase.DOWN
    assert labs.store.deployed("lab") is None
    labs.drivers.failures = [Failure("two/*"), Failure("three/*")]
    action = labs.do(Up())
    assert [fault.message.partition(":")[0] for fault in action.faults] == ["two", "three"]
    labs.drivers.failures = []
    labs.must(Up())


def test_up_while_it_is_up_and_a_host_is_away_leaves_it_up(labs: Lab) -> None:
    labs.must(Up())
    labs.drivers.failures = [Failure("two/*")]
    action = labs.do(Up())
    assert action.refused
    assert labs.deployment.state is Phase.UP
    assert running(labs) == PLACES
    labs.drivers.failures = []
    assert "is up already" in labs.text(labs.must(Up()))


@pytest.mark.parametrize("purge", [False, True])
def test_down_without_one_of_the_hosts_takes_down_the_others_and_can_be_finished(
    labs: Lab, purge: bool
) -> None:
    labs.must(Up())
    labs.drivers.failures = [Failure("two/*")]
    action = labs.do(Down(purge=purge))
    assert action.state is ActionState.FAILED
    assert [fault.host for fault in action.faults] == ["two"]
    assert "two/linked_folder:lab was made to fail" in action.faults[0].message
    assert running(labs) == {"one": set(), "two": PLACES["two"], "three": set()}
    for name in ("", "three"):
        world = labs.drivers.worlds[name]
        things = (world.domains, world.networks, world.bridges, world.links, world.projects)
        assert not any(things), name
    assert labs.deployment.state is Phase.FAILED
    again = labs.do(Down(purge=purge))
    assert [fault.host for fault in again.faults] == ["two"]
    labs.drivers.failures = []
    labs.must(Down(purge=purge))
    (assert_purged if purge else assert_clean)(labs)
    assert labs.deployment.state is Phase.DOWN


def test_up_goes_on_after_a_down_that_one_host_missed(labs: Lab) -> None:
    labs.must(Up())
    labs.drivers.failures = [Failure("two/*")]
    labs.do(Down())
    labs.drivers.failures = []
    labs.must(Up())
    assert running(labs) == PLACES


def test_a_host_that_goes_away_while_it_is_sent_something_does_not_stop_the_others(labs: Lab) -> None:
    labs.drivers.failures = [Failure("two/store:*")]
    action = labs.do(Up())
    assert action.state is ActionState.FAILED
    assert {fault.host for fault in action.faults} == {"two"}
    assert len(labs.drivers.worlds["three"].blobs) == 2
    assert labs.drivers.worlds["three"].delivered["lab"]
    labs.drivers.failures = []
    labs.must(Up())
    assert running(labs) == PLACES


def test_down_takes_down_guests_on_a_host_that_was_taken_out_of_the_config(labs: Lab) -> None:
    labs.must(Up())
    labs.bench.edit("br2: three", "br2: two")
    labs.bench.edit(
        ',\n   "three": {"ip": "192.0.2.13", "user": "root", "virt_type": "qemu"}',
        "",
        "kvm-compose-config.json",
    )
    labs.bench.generate()
    labs.must(Down())
    assert_clean(labs)
    refused = labs.do(Up())  # how three was reached is not known any more
    assert refused.refused
    lost = "the disk of far is on three, which is no host of the testbed any more"
    assert lost in {each.message for each in refused.faults}
    labs.must(Up(abandon=("three",)))
    assert running(labs) == {
        "one": PLACES["one"], "two": PLACES["two"] | PLACES["three"], "three": set(),
    }  # fmt: skip


def test_a_guest_that_moves_to_another_host_with_a_new_disk(labs: Lab) -> None:
    labs.must(Up())
    labs.must(Down())
    labs.bench.edit("br2: three", "br2: two")
    labs.bench.generate()
    labs.must(Up(provision=True))
    assert running(labs) == {
        "one": PLACES["one"], "two": PLACES["two"] | PLACES["three"], "three": set(),
    }  # fmt: skip
    assert "far-cloud-init.img" not in labs.drivers.worlds["three"].disks
    assert not [call for call in labs.drivers.calls if "/fetch:" in call]


# -- going on without ----------------------------------------------------------------------------------


def test_a_host_that_cannot_be_sent_its_things_does_not_keep_others_from_going_on(labs: Lab) -> None:
    labs.drivers.failures = [Failure("two/store:*")]
    action = labs.do(Up(keep_going=True))
    assert action.state is ActionState.FAILED
    assert running(labs) == PLACES | {"two": set()}
    labs.drivers.failures = []
    labs.must(Up())
    assert running(labs) == PLACES


def test_a_golden_image_that_failed_is_not_sent(labs: Lab) -> None:
    labs.drivers.failures = [Failure("run:worker:*shared.sh")]
    assert labs.do(Up(keep_going=True)).state is ActionState.FAILED
    assert not [call for call in labs.drivers.calls if "/store:worker" in call]


def test_a_host_at_another_address_that_is_another_machine_is_refused(labs: Lab) -> None:
    labs.must(Up())
    labs.bench.edit('"192.0.2.12"', '"192.0.2.99"', "kvm-compose-config.json")
    labs.bench.generate()
    there = labs.drivers.worlds["two"].delivered.pop("lab")
    refused = labs.do(Up())
    message = "host two: ip: 192.0.2.12 -> 192.0.2.99, which is another machine"
    assert message in {each.message for each in refused.faults}
    labs.drivers.worlds["two"].delivered["lab"] = there
    labs.must(Down())
    assert running(labs) == {name: set() for name in PLACES}


def test_a_host_at_another_address_keeps_its_guests(labs: Lab) -> None:
    labs.must(Up())
    started = {name: domain.started for name, domain in labs.drivers.worlds["two"].domains.items()}
    labs.bench.edit('"192.0.2.12"', '"192.0.2.99"', "kvm-compose-config.json")
    labs.bench.generate()
    labs.must(Up())
    assert {name: each.started for name, each in labs.drivers.worlds["two"].domains.items()} == started
    remotes = {
        port.options["remote_ip"]
        for world in labs.drivers.worlds.values()
        for bridge in world.bridges.get("lab", {}).values()
        for port in bridge.ports.values()
        if "remote_ip" in port.options
    }
    assert "192.0.2.99" in remotes
    assert "192.0.2.12" not in remotes


def test_hosts_that_swap_their_addresses_are_refused(labs: Lab) -> None:
    labs.must(Up())
    labs.bench.edit('"192.0.2.12"', '"192.0.2.0"', "kvm-compose-config.json")
    labs.bench.edit('"192.0.2.13"', '"192.0.2.12"', "kvm-compose-config.json")
    labs.bench.edit('"192.0.2.0"', '"192.0.2.13"', "kvm-compose-config.json")
    labs.bench.generate()
    refused = labs.do(Up())
    assert {each.message.partition(":")[0] for each in refused.faults} == {"host two", "host three"}
    assert running(labs) == PLACES


def test_a_host_that_is_gone_for_good_is_abandoned(labs: Lab) -> None:
    labs.must(Up())
    labs.drivers.failures = [Failure("two/*")]
    assert labs.do(Down()).state is ActionState.FAILED
    for name in ("one", "four"):
        refused = labs.do(Down(abandon=(name,)))
        assert refused.refused
        assert [each.hint for each in refused.faults] == ["there are: two, three"]
    action = labs.must(Down(abandon=("two",)))
    assert "two is abandoned: whatever is there stays there" in labs.text(action)
    assert labs.deployment.state is Phase.DOWN
    assert running(labs) == {"one": set(), "two": PLACES["two"], "three": set()}


def test_what_another_main_host_keeps_there_is_not_taken_down(labs: Lab) -> None:
    labs.must(Up())
    two = labs.drivers.worlds["two"]
    two.homes["lab"] = "another-machine 0123abcd:/home/eve/lab"
    action = labs.do(Down(purge=True))
    assert [fault.message for fault in action.faults] == ["lab belongs to another main host"]
    assert running(labs) == {"one": set(), "two": PLACES["two"], "three": set()}
    assert two.delivered["lab"]


def test_a_clone_that_moves_with_its_data_needs_its_golden_image_as_it_was(labs: Lab) -> None:
    """The main host's disk is what is sent: it counts, until another one is there."""
    labs.must(Up())
    labs.must(Down(purge=True))
    moved = next(name for name in PLACES["two"] if name.startswith("worker-"))
    labs.world.disks[labs.disk(f"{moved}-linked-clone.qcow2")] = FakeDisk(written=True)
    labs.bench.write("shared.sh", "#!/bin/sh\nother\n")
    labs.bench.generate()
    refused = labs.do(Up())
    assert refused.refused
    assert any("clones have data" in each.message and moved in each.message for each in refused.faults)
    labs.must(Up(reset_clones=True))
    assert running(labs) == PLACES
    assert not labs.world.disks[labs.disk(f"{moved}-linked-clone.qcow2")].written


# -- disks that grow -----------------------------------------------------------------------------------

GIB = 1 << 30


def size_of_disk(lab: Lab, guest: str, host: str) -> int:
    return lab.drivers.worlds[host].disks[lab.disk(f"{guest}-cloud-init.img", host)].size


def grow_db(lab: Lab, after: int, before: int | None = None, *words: str) -> None:
    """Another size for db, whose disk on host two has data."""
    script = "cloud_image: {name: debian_12, setup_script: setup.sh"
    old = f"{script}}}" if before is None else f"{script}, expand_gigabytes: {before}}}"
    lab.bench.edit(old, f"{script}, expand_gigabytes: {after}}}")
    lab.bench.generate(*words)


def test_a_disk_with_data_on_another_host_grows_there(labs: Lab) -> None:
    labs.must(Up())
    before = size_of_disk(labs, "db", "two")
    labs.must(Down())
    grow_db(labs, 2)
    calls = calls_of(labs, Up())
    assert "two/grow:db-cloud-init.img" in calls
    assert not [call for call in calls if verb(call) == "put" and "db" in call and ".img" in call]
    disk = labs.drivers.worlds["two"].disks[labs.disk("db-cloud-init.img", "two")]
    assert disk.size == before + 2 * GIB
    assert disk.written
    assert disk.markers
    # and that was all
    labs.must(Down())
    assert not [call for call in calls_of(labs, Up()) if verb(call) in ("grow", "put", "note")]


def test_a_disk_on_another_host_grows_while_its_guest_runs(labs: Lab) -> None:
    labs.must(Up())
    before = size_of_disk(labs, "db", "two")
    started = labs.drivers.worlds["two"].domains["lab-db"].started
    grow_db(labs, 2)
    labs.must(Up())
    assert size_of_disk(labs, "db", "two") == before + 2 * GIB
    assert labs.drivers.worlds["two"].domains["lab-db"].started == started
    assert "is up already" in labs.text(labs.must(Up()))


@pytest.mark.parametrize("call", ["two/grow:*", "two/note:*"])
def test_a_growth_that_fails_on_another_host_is_made_up_for(labs: Lab, call: str) -> None:
    labs.must(Up())
    before = size_of_disk(labs, "db", "two")
    labs.must(Down())
    grow_db(labs, 2)
    labs.drivers.failures = [Failure(call)]
    assert labs.do(Up()).faults
    labs.drivers.failures = []
    labs.must(Up())
    disk = labs.drivers.worlds["two"].disks[labs.disk("db-cloud-init.img", "two")]
    assert (disk.size, disk.written) == (before + 2 * GIB, True)
    assert running(labs) == PLACES


def test_a_disk_with_data_on_another_host_does_not_shrink(labs: Lab) -> None:
    grow_db(labs, 2)
    labs.must(Up())
    before = size_of_disk(labs, "db", "two")
    labs.must(Down())
    grow_db(labs, 1, 2, "--provision")
    action = labs.do(Up())
    assert action.refused
    assert "those on the host have data" in action.faults[0].message
    assert size_of_disk(labs, "db", "two") == before


def test_clones_on_other_hosts_grow_above_their_golden_image(labs: Lab) -> None:
    labs.must(Up())
    labs.must(Down())
    image = "libvirt_type: {cloud_image: {name: debian_12"
    after = "}}\n      scaling"
    labs.bench.edit(f"{image}{after}", f"{image}, expand_gigabytes: 2{after}")
    labs.bench.generate()
    calls = calls_of(labs, Up())
    grown = {call for call in calls if verb(call) == "grow"}
    assert grown == {
        "two/grow:worker-1-linked-clone.qcow2",
        "two/grow:worker-2-linked-clone.qcow2",
        "three/grow:worker-3-linked-clone.qcow2",
    }
    assert running(labs) == PLACES


def test_a_host_that_was_taken_out_of_the_config_is_not_asked_any_more(labs: Lab) -> None:
    labs.must(Up())
    for disk in labs.drivers.worlds["three"].disks.values():
        disk.written = False
    labs.bench.edit("br2: three", "br2: two")
    labs.bench.edit(
        ',\n   "three": {"ip": "192.0.2.13", "user": "root", "virt_type": "qemu"}',
        "",
        "kvm-compose-config.json",
    )
    labs.bench.generate()
    action = labs.must(Up())
    assert "stop:far" in {step.name for step in labs.store.steps(action.uuid)}
    assert running(labs)["three"] == set()
    assert not labs.drivers.worlds["three"].bridges.get("lab")
    labs.drivers.calls.clear()
    labs.must(Up())
    assert not [call for call in labs.drivers.calls if call.startswith("three/")]


def test_what_is_in_the_way_on_other_hosts_is_told_beside_a_host_that_does_not_answer(labs: Lab) -> None:
    labs.must(Up())
    labs.must(Down())
    labs.drivers.failures = [Failure("two/*")]
    labs.drivers.worlds["three"].bridges["other"] = {"lab-br2": FakeBridge()}
    refused = labs.do(Up())
    assert refused.refused
    assert [fault.message for fault in refused.faults] == [
        "two: two/linked_folder:lab was made to fail",
        "three: names are taken by other Open vSwitch bridges: lab-br2",
    ]
