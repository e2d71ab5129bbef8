"""A guest that is placed on another host moves there with its disk, wherever the move is interrupted."""

from __future__ import annotations

import asyncio
import glob
from typing import TYPE_CHECKING

import msgspec
import pytest
from test_several_hosts_faked import PLACES, assert_clean, kill_at, labs, running, three  # noqa: F401 (fixtures)

from kvmcompose.core.commands import Down, Power, PowerVerb, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.core.planned import PlanRequest
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeDisk
from kvmcompose.hosts.transfer_plan import note_stale, read_sent
from orchestrator.kinds_of_calls import first_of_kinds

if TYPE_CHECKING:
    from conftest import Lab

MACHINE = """\
  - name: %s
    interfaces: [{bridge: %s}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12%s}}
"""
FAR_MACHINE = "name: far\n    interfaces: [{bridge: br2}]\n    libvirt: {"
FAR = "far-cloud-init.img"
CLONE = "worker-3-linked-clone.qcow2"
NOTE = "/root/note"
HOSTS = ("one", "two", "three")
MOVED = PLACES["three"]


def disk(lab: Lab, host: str, name: str = FAR) -> FakeDisk | None:
    world = lab.world if host == "one" else lab.drivers.worlds[host]
    return world.disks.get(lab.disk(name, host))


def write_note(lab: Lab, host: str) -> None:
    """Write a file inside the guest."""
    found = disk(lab, host)
    assert found is not None
    found.markers = found.markers | {NOTE: "kept"}
    lab.drivers.keep()


def notes(lab: Lab) -> set[str]:
    """The hosts with a disk of far that has the file."""
    return {host for host in HOSTS if (found := disk(lab, host)) is not None and NOTE in found.markers}


def place(lab: Lab, before: str, after: str) -> None:
    """Place what is on br2: far, and a clone of a golden image."""
    lab.bench.edit(f"br2: {before}", f"br2: {after}")
    lab.bench.generate()


def expected(host: str) -> dict[str, set[str]]:
    return {name: PLACES[name] - MOVED | (MOVED if name == host else set()) for name in HOSTS}


def assert_moved(lab: Lab, host: str) -> None:
    """far runs on a host with its data, nothing of its disk is anywhere else, and nothing more is to do."""
    assert running(lab) == expected(host)
    assert notes(lab) == {host}
    for other in set(HOSTS) - {host, "one"}:
        assert disk(lab, other) is None, other
    if host != "one":
        built = disk(lab, "one")
        assert built is None or not built.written
    assert not any(each.stale for each in read_sent(lab.folder).values())
    assert not list((lab.folder / ".kvm-compose").glob("moving-*"))
    assert "is up already" in lab.text(lab.must(Up()))


def others(lab: Lab) -> dict[str, float]:
    """When the guests that do not move were started."""
    return {
        domain.guest: domain.started
        for world in lab.drivers.worlds.values()
        for domain in world.domains.values()
        if domain.guest not in MOVED
    }


def test_a_guest_moves_with_its_disk_from_host_to_host(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    write_note(labs, "three")
    started = others(labs)
    for before, after in (("three", "two"), ("two", "one"), ("one", "three"), ("three", "one")):
        place(labs, before, after)
        action = labs.must(Up())
        assert f"the disk of far moved from {before} to {after}" in labs.text(action)
        assert f"the disk of worker-3 moved from {before} to {after}" in labs.text(action)
        assert_moved(labs, after)
    assert others(labs) == started


def test_a_guest_that_is_off_moves_with_its_disk(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    write_note(labs, "three")
    labs.must(Down())
    place(labs, "three", "one")
    labs.must(Up())
    assert_moved(labs, "one")
    labs.must(Down())
    place(labs, "one", "two")
    labs.must(Up())
    assert_moved(labs, "two")


def test_a_guest_that_was_stopped_moves_and_stays_off(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    write_note(labs, "three")
    labs.must(Power(verb=PowerVerb.STOP, guests=("far",)))
    place(labs, "three", "two")
    labs.must(Up())
    there = {host: world.domains.get("lab-far") for host, world in labs.drivers.worlds.items()}
    assert [host for host, domain in there.items() if domain is not None] == ["two"]
    assert "far" not in running(labs)["two"]
    labs.must(Power(verb=PowerVerb.START, guests=("far",)))
    assert_moved(labs, "two")


@pytest.mark.parametrize(("before", "after"), [("three", "two"), ("three", "one"), ("one", "two")])
def test_every_call_of_a_move_may_fail(labs: Lab, before: str, after: str) -> None:  # noqa: F811
    if before != "three":
        place(labs, "three", before)
    labs.must(Up())
    write_note(labs, before)
    begun = len(labs.drivers.calls)
    place(labs, before, after)
    labs.must(Up())
    calls = [call for call in dict.fromkeys(labs.drivers.calls[begun:]) if is_of_move(call)]
    assert any("put:" in call or "fetch:" in call for call in calls)
    for call in (calls[at] for at in first_of_kinds(calls)):
        place(labs, after, before)
        labs.must(Up())
        assert notes(labs) == {before}, call
        place(labs, before, after)
        labs.drivers.failures = [Failure(glob.escape(call), 1)]
        assert labs.do(Up()).state is ActionState.FAILED, call
        labs.drivers.failures = []
        assert "far" not in running(labs)[after], call
        labs.must(Up())
        assert_moved(labs, after)


def is_of_move(call: str) -> bool:
    verb = call.partition(":")[0].rpartition("/")[2]
    return FAR in call and verb in {
        "digest", "measure", "fetch", "put", "note", "remove_disk", "replace_disk", "reset_overlay", "header",
    }  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [("three", "two"), ("three", "one"), ("one", "two")])
def test_killed_at_any_call_of_a_move_it_goes_on(labs: Lab, before: str, after: str) -> None:  # noqa: F811
    if before != "three":
        place(labs, "three", before)
    labs.must(Up())
    write_note(labs, before)
    begun = len(labs.drivers.calls)
    place(labs, before, after)
    labs.must(Up())
    calls = labs.drivers.calls[begun:]
    first = next(at for at, call in enumerate(calls) if "shut_down_domain" in call)
    last = max(at for at, call in enumerate(calls) if is_of_move(call))
    for at in (first + at for at in first_of_kinds(calls[first : last + 2])):
        place(labs, after, before)
        labs.must(Up())
        assert notes(labs) == {before}, at
        place(labs, before, after)
        kill_at(labs, Up(), at)
        labs.must(Up())
        assert_moved(labs, after)


def test_a_move_that_was_killed_may_be_taken_back(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    write_note(labs, "three")
    place(labs, "three", "two")
    labs.drivers.failures = [Failure("three/remove_disk:*")]
    assert labs.do(Up()).state is ActionState.FAILED
    labs.drivers.failures = []
    assert notes(labs) == {"two", "three"}
    place(labs, "two", "three")
    labs.must(Up())
    assert_moved(labs, "three")


def test_a_move_is_left_with_its_guest(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    write_note(labs, "three")
    place(labs, "three", "two")
    labs.must(Up(guests=("web",)))
    labs.must(Up(no_restart=True))
    assert running(labs) == PLACES
    assert notes(labs) == {"three"}
    labs.must(Up())
    assert_moved(labs, "two")


def test_a_disk_moves_only_onto_the_image_that_it_was_made_on(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    labs.must(Down())
    place(labs, "three", "two")
    found = labs.drivers.worlds["three"].disks[labs.disk(FAR, "three")]
    found.backing, before = "/etc/shadow", found.backing
    refused = labs.do(Up())
    assert refused.refused
    assert [each.message for each in refused.faults] == [
        "far cannot move from three: its disk there has another backing file than the one that was built"
    ]
    found.backing = before
    labs.must(Up())


def test_a_larger_disk_grows_where_it_moves_to(labs: Lab) -> None:  # noqa: F811
    yaml = "name: far\n    interfaces: [{bridge: br2}]\n    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: "
    old, size = "{cloud_image: {name: debian_12}}", "{cloud_image: {name: debian_12, expand_gigabytes: %d}}"
    labs.bench.edit(yaml + old, yaml + size % 1)
    labs.bench.generate()
    labs.must(Up())
    write_note(labs, "three")
    for number, (before, after) in enumerate((("three", "two"), ("two", "one")), 2):
        labs.bench.edit(size % (number - 1), size % number)
        place(labs, before, after)
        found = disk(labs, before)
        assert found is not None
        less = found.size
        labs.must(Up())
        found = disk(labs, after)
        assert found is not None
        assert found.size == less + (1 << 30)
        assert_moved(labs, after)


# -- a host that is gone -------------------------------------------------------------------------------


def leave(lab: Lab) -> None:
    """Take three out of the testbed; what it had is placed on two."""
    lab.bench.edit(
        ',\n   "three": {"ip": "192.0.2.13", "user": "root", "virt_type": "qemu"}',
        "",
        "kvm-compose-config.json",
    )
    place(lab, "three", "two")


def test_guests_leave_a_host_that_leaves_the_testbed(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    write_note(labs, "three")
    leave(labs)
    labs.must(Up())
    assert_moved(labs, "two")
    gone = labs.drivers.worlds["three"]
    assert (gone.domains, gone.bridges.get("lab", {}), gone.links, gone.projects) == ({}, {}, {}, {})
    assert gone.delivered == {}
    begun = len(labs.drivers.calls)
    assert "three" not in labs.text(labs.must(Up()))
    assert not [call for call in labs.drivers.calls[begun:] if call.startswith("three/")]


def test_disks_of_removed_guests_stay_and_are_named(labs: Lab) -> None:  # noqa: F811
    """Also on a host that leaves with them."""
    labs.must(Up())
    labs.bench.edit(MACHINE % ("web", "br0", ", run_script: run.sh"), "")
    labs.bench.edit(MACHINE % ("db", "br1", ", setup_script: setup.sh"), "")
    labs.bench.generate()
    said = labs.text(labs.must(Up()))
    places = {"web": "one", "db": "two"}
    removes = {
        "web": "kvm-compose clean --left-over web removes it",
        "db": "kvm-compose down --purge removes it, with all other disks of the testbed",
    }
    for name, host in places.items():
        line = f"the disk of {name} stays: artefacts/{name}-cloud-init.img on {host}"
        assert f"{line}; {removes[name]}" in said
        assert disk(labs, host, f"{name}-cloud-init.img") is not None
    assert "stays" not in labs.text(labs.must(Up()))
    labs.must(Down())
    labs.must(Down(purge=True))
    for name, host in places.items():
        assert disk(labs, host, f"{name}-cloud-init.img") is None
    assert read_sent(labs.folder) == {}


def test_a_host_leaves_with_the_disk_of_a_removed_guest(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    yaml = (labs.folder / "kvm-compose.yaml").read_text()
    far = yaml[yaml.index("  - name: far") : yaml.index("  - name: worker")]
    labs.bench.edit(far, "")
    leave(labs)
    said = labs.text(labs.must(Up()))
    assert f"three has left the testbed; disks stay there: artefacts/{FAR}" in said
    assert disk(labs, "three") is not None
    assert "three is no host of the testbed any more" in labs.text(labs.must(Up()))


def test_a_host_that_is_gone_is_abandoned_with_the_disks_on_it(labs: Lab) -> None:  # noqa: F811
    place(labs, "three", "one")
    labs.must(Up())
    write_note(labs, "one")
    place(labs, "one", "three")
    labs.must(Up())
    leave(labs)
    labs.drivers.failures = [Failure("three/*")]
    refused = labs.do(Up())
    assert refused.refused
    assert [each.hint for each in refused.faults] == [
        "if three is gone for good, give it up with what is on it: kvm-compose up --abandon three"
    ]
    for name in ("two", "four"):
        assert labs.do(Up(abandon=(name,))).refused
    action = labs.must(Up(abandon=("three",)))
    lost = "three is abandoned: whatever is there stays there, with the disks of far, worker-3"
    assert lost in labs.text(action)
    assert running(labs)["two"] == PLACES["two"] | MOVED
    found = disk(labs, "two")
    assert found is not None
    assert NOTE not in found.markers  # neither the disk on three, nor an older copy
    # the host is back, and its disk is out of date
    labs.drivers.failures = []
    labs.bench.edit(
        "}},\n", '}, "three": {"ip": "192.0.2.13", "user": "root", "virt_type": "qemu"}},\n',
        "kvm-compose-config.json",
    )  # fmt: skip
    labs.bench.generate()
    labs.must(Up())
    assert running(labs)["two"] == PLACES["two"] | MOVED
    assert notes(labs) == {"three"}


def test_of_two_disks_that_may_be_the_right_one_none_is_used(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    labs.must(Down())
    labs.drivers.worlds["two"].disks[labs.disk(FAR, "two")] = FakeDisk(written=True)
    labs.drivers.worlds["two"].delivered["lab"][f"artefacts/{FAR}"] = "0" * 64
    place(labs, "three", "two")
    refused = labs.do(Up())
    assert refused.refused
    assert [each.message for each in refused.faults] == [
        "far has different disks with data, on three and two"
    ]
    # what is known to be out of date is none of them
    note_stale(labs.folder, "two", f"artefacts/{FAR}", stale=True)
    labs.must(Up())
    assert running(labs) == expected("two")
    labs.must(Down())
    assert_clean(labs)


def test_a_plan_counts_the_disks_that_move_and_the_room_that_they_take(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    write_note(labs, "three")
    place(labs, "three", "two")
    request = PlanRequest(state=b"null")  # type: ignore[arg-type] # as a client encodes it
    hosts = {each.name: each for each in asyncio.run(labs.orchestrator.plan(labs.deployment, request)).hosts}
    moved = sum(len(msgspec.json.encode(disk(labs, "three", name))) for name in (FAR, CLONE))
    # by way of the main host, where they do not stay
    assert (hosts["one"].bytes_to_send, hosts["one"].disk_bytes) == (moved, 0)
    assert hosts["two"].bytes_to_send >= moved
    assert hosts["two"].disk_bytes == hosts["two"].bytes_to_send
    assert (hosts["three"].bytes_to_send, hosts["three"].disk_bytes) == (0, 0)
    assert all(each.disk_free for each in hosts.values())
    assert "is up" in labs.text(labs.must(Up()))


@pytest.mark.parametrize("source", ["image: debian_12", "size_gigabytes: 1"])
def test_a_further_disk_moves_with_its_guest(labs: Lab, source: str) -> None:  # noqa: F811
    """One that lies on nothing is sent as it is from the main host, as a copy of an image is."""
    labs.bench.edit(FAR_MACHINE, f"{FAR_MACHINE}disks: [{{name: data, {source}}}], ")
    labs.bench.generate()
    labs.must(Up())
    name = "far.data.qcow2"
    found = disk(labs, "three", name)
    assert found is not None
    found.written, found.markers = True, {NOTE: "kept"}
    labs.drivers.keep()
    for before, after in (("three", "two"), ("two", "one"), ("one", "three")):
        place(labs, before, after)
        action = labs.must(Up())
        if "image" in source or before != "one":
            assert f"the disk artefacts/{name} of far moved from {before} to {after}" in labs.text(action)
        there = disk(labs, after, name)
        assert there is not None
        if "image" in source or after != "three":
            assert there.markers == {NOTE: "kept"}
        assert all(disk(labs, host, name) is None for host in {"two", "three"} - {after})
        assert "is up already" in labs.text(labs.must(Up()))


def test_a_guest_on_another_host_gets_another_disk_while_it_runs(labs: Lab) -> None:  # noqa: F811
    labs.must(Up())
    started = {each.started for each in labs.drivers.worlds["three"].domains.values()}
    labs.bench.edit(FAR_MACHINE, f"{FAR_MACHINE}disks: [{{name: data, size_gigabytes: 1}}], ")
    labs.bench.generate()
    labs.must(Up())
    assert "three/attach_disk:lab-far:data" in labs.drivers.calls
    assert disk(labs, "three", "far.data.qcow2") is not None
    assert {each.started for each in labs.drivers.worlds["three"].domains.values()} == started
    # what it has is not sent again while it runs
    labs.drivers.calls.clear()
    assert "is up already" in labs.text(labs.must(Up()))
