"""Disks that guests share: given their size where they are, plugged in and out, grown, never moved."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from test_failures import _kill_at
from test_several_hosts_faked import labs, three  # noqa: F401 (fixtures)

from kvmcompose.core.commands import Down, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import ActionState

if TYPE_CHECKING:
    from conftest import Lab

QUORUM = "{name: quorum, size_gigabytes: 1, shareable: true}"
FILE = "shared.quorum.raw"
_GIB = 1 << 30
CALLS = ("attach_disk", "detach_disk", "grow_disk", "ready_raw", "start_domain", "destroy_domain")


def share(lab: Lab, **disks: str) -> None:
    """Give guests these disks in the YAML, in the place of those that they have, and build."""
    text = (lab.folder / "kvm-compose.yaml").read_text()
    for name, entries in disks.items():
        before, _, rest = text.partition(f"  - name: {name}\n")
        head, _, after = rest.partition("libvirt: {")
        kept = after[after.index("cpus:") :]
        own = f"disks: [{entries}], " if entries else ""
        text = f"{before}  - name: {name}\n{head}libvirt: {{{own}{kept}"
    (lab.folder / "kvm-compose.yaml").write_text(text)
    lab.bench.generate()


def done(lab: Lab) -> list[str]:
    """What was done to domains and disks by the next up, which nothing differs after."""
    lab.drivers.calls.clear()
    lab.must(Up())
    assert lab.status().differences == ()
    return sorted(call for call in lab.drivers.calls if call.startswith(CALLS))


def refused(lab: Lab, command: Up | Snapshot) -> str:
    action = lab.do(command)
    assert action.state is not ActionState.SUCCEEDED
    return " ".join(f"{each.message} {each.hint}" for each in action.faults)


@pytest.fixture
def up(lab: Lab) -> Lab:
    share(lab, db=QUORUM, alone=QUORUM)
    lab.must(Up(guests=("db",)))
    assert (lab.running(), lab.world.disks[lab.disk(FILE)].size) == ({"db"}, _GIB)
    lab.must(Up())
    return lab


def test_it_has_its_size_before_a_guest_starts(up: Lab) -> None:
    assert (up.folder / "artefacts" / FILE).stat().st_size == 0  # a fake host leaves the real files alone
    assert up.world.disks[up.disk(FILE)].size == _GIB
    assert done(up) == []


def test_it_is_plugged_in_and_out_of_guests_that_run(up: Lab) -> None:
    share(up, db=f"{QUORUM}, {QUORUM.replace('quorum', 'new')}", alone="")
    assert done(up) == [
        "attach_disk:lab-db:new",
        "detach_disk:lab-alone:quorum",
        "ready_raw:shared.new.raw",
    ]
    share(up, db=QUORUM, alone=QUORUM)
    assert done(up) == ["attach_disk:lab-alone:quorum", "detach_disk:lab-db:new", f"ready_raw:{FILE}"]


def test_it_grows_for_all_that_have_it(up: Lab) -> None:
    larger = QUORUM.replace("1", "3")
    share(up, db=larger, alone=larger)
    assert done(up) == [f"grow_disk:lab-alone:{FILE}", f"grow_disk:lab-db:{FILE}"]
    assert up.world.disks[up.disk(FILE)].size == 3 * _GIB
    assert done(up) == []
    share(up, db=QUORUM, alone=QUORUM)
    said = refused(up, Up())
    assert f"artefacts/{FILE} has 3 GiB, and disks never shrink: 3 -> 1" in said
    assert "size_gigabytes: 3 keeps it" in said


def test_a_guest_that_only_reads_it_sees_that_it_has_grown_when_it_restarts(up: Lab) -> None:
    """QEMU does not resize a read-only disk."""
    readonly = QUORUM.replace("true", "true, readonly: true")
    share(up, alone=readonly)
    assert done(up) == ["destroy_domain:lab-alone", f"ready_raw:{FILE}", "start_domain:lab-alone"]
    share(up, db=QUORUM.replace("1", "2"), alone=readonly.replace("1", "2"))
    assert done(up) == [f"grow_disk:lab-db:{FILE}", f"ready_raw:{FILE}"]


def test_a_guest_that_is_off_finds_it_grown(up: Lab) -> None:
    up.must(Down(guests=("alone",)))
    larger = QUORUM.replace("1", "2")
    share(up, db=larger, alone=larger)
    assert done(up) == [f"grow_disk:lab-db:{FILE}", f"ready_raw:{FILE}", "start_domain:lab-alone"]
    assert up.world.disks[up.disk(FILE)].size == 2 * _GIB


def test_killed_at_its_calls_the_next_up_goes_on(up: Lab) -> None:
    larger, new = QUORUM.replace("1", "2"), QUORUM.replace("quorum", "new")
    before = ["quorum"], ["quorum"]
    # the calls before only look
    for first, edit, after in (
        (13, {"db": f"{larger}, {new}", "alone": larger}, (["quorum", "new"], ["quorum"])),
        (14, {"db": larger, "alone": new}, (["quorum"], ["new"])),
    ):
        share(up, **edit)
        seen = []
        for at in range(first, 200, 2):
            killed = _kill_at(up, Up(), at, may_end=True)
            further = tuple(up.world.domains[f"lab-{name}"].hardware.further for name in edit)
            seen.append(further)
            if not killed:
                break
        assert (seen[0], seen[-1]) == (before, after)
        assert done(up) == []
        before = after
    assert up.world.disks[up.disk(FILE)].size == 2 * _GIB


def test_a_snapshot_of_a_guest_that_writes_to_it_is_refused(up: Lab) -> None:
    create = Snapshot(verb=SnapshotVerb.CREATE, name="first", guests=("db",))
    assert f"db writes to a shareable disk (artefacts/{FILE})" in refused(up, create)
    share(up, db=QUORUM.replace("true", "true, readonly: true"))
    up.must(Up())
    up.must(create)


def test_it_stays_without_guests_and_goes_with_all_disks(up: Lab) -> None:
    share(up, db="")
    assert FILE not in up.text(up.must(Up()))
    share(up, alone="")
    said = up.text(up.must(Up()))
    assert f"a disk that guests shared stays: artefacts/{FILE} on one" in said
    assert f"kvm-compose clean --left-over {FILE} removes it" in said
    share(up, db=QUORUM, alone=QUORUM)
    up.must(Up())
    up.must(Down(purge=True))
    assert up.drivers.calls.count(f"remove_disk:{FILE}") == 1
    assert up.disk(FILE) not in up.world.disks


def test_on_another_host_it_is_sent_once_and_does_not_move(labs: Lab) -> None:  # noqa: F811
    machine = "  - name: %s\n    interfaces: [{bridge: br2}]\n    libvirt: {cpus: 1, memory_mb: 128,"
    kind = f"libvirt_type: {{cloud_image: {{name: debian_12}}}}, disks: [{QUORUM}]}}\n"
    labs.bench.edit("network:\n", f"{machine % 'left'} {kind}{machine % 'right'} {kind}network:\n")
    labs.bench.generate()
    labs.must(Up())
    there = labs.drivers.worlds["three"]
    assert there.disks[labs.disk(FILE, "three")].size == _GIB
    assert f"artefacts/{FILE}" in there.delivered["lab"]
    assert {each.guest for each in there.domains.values()} >= {"left", "right"}
    os.truncate(labs.folder / "artefacts" / FILE, 2 << 40)  # which would take hours to read
    assert "is up already" in labs.text(labs.must(Up()))

    labs.bench.edit("br2: three", "br2: two")
    labs.bench.generate()
    said = refused(labs, Up())
    assert f"artefacts/{FILE} is on three, and a disk that guests share does not move: left, right" in said
    assert "pin them to three" in said
    labs.bench.edit("br2: two", "br2: three")
    labs.bench.generate()
    assert "is up already" in labs.text(labs.must(Up()))
