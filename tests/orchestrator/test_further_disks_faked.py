"""Further disks of guests that run: plugged in and out, grown; what needs another start restarts."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeDisk

if TYPE_CHECKING:
    from conftest import Lab

DB = "libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}\n  - name: alone"
PLUGS = ("attach_disk", "detach_disk", "change_medium", "grow_disk", "start_domain", "destroy_domain")


def with_disks(lab: Lab, disks: str) -> None:
    """Give db these disks in the YAML, in the place of those that it has, and build."""
    text = (lab.folder / "kvm-compose.yaml").read_text()
    before, _, rest = text.partition("  - name: db\n")
    section, _, after = rest.partition("  - name: alone")
    start = section.index("libvirt: {") + len("libvirt: {")
    end = section.index("cpus:")
    section = f"{section[:start]}{f'disks: [{disks}], ' if disks else ''}{section[end:]}"
    (lab.folder / "kvm-compose.yaml").write_text(f"{before}  - name: db\n{section}  - name: alone{after}")
    lab.bench.generate()


def plugged(lab: Lab) -> list[str]:
    """What was done to domains by the next up."""
    lab.drivers.calls.clear()
    lab.must(Up())
    return [call for call in lab.drivers.calls if call.startswith(PLUGS)]


@pytest.fixture
def up(lab: Lab) -> Lab:
    with_disks(lab, "{name: data, size_gigabytes: 1}")
    lab.must(Up())
    assert lab.status().differences == ()
    return lab


def test_a_disk_is_plugged_in_and_out_while_the_guest_runs(up: Lab) -> None:
    with_disks(up, "{name: new, size_gigabytes: 1, bus: scsi}, {name: data, size_gigabytes: 1}")
    assert plugged(up) == ["attach_disk:lab-db:new"]
    assert up.status().differences == ()
    with_disks(up, "{name: data, size_gigabytes: 1}")
    assert plugged(up) == ["detach_disk:lab-db:new"]
    assert up.status().differences == ()
    assert plugged(up) == []


def test_another_place_in_the_list_means_nothing(up: Lab) -> None:
    with_disks(up, "{name: first, size_gigabytes: 1}, {name: data, size_gigabytes: 1}")
    plugged(up)
    with_disks(up, "{name: data, size_gigabytes: 1}, {name: first, size_gigabytes: 1}")
    assert plugged(up) == []


def test_a_disk_without_data_does_not_stay(up: Lab) -> None:
    """The next build removes it."""
    with_disks(up, "")
    assert "stays" not in up.text(up.must(Up()))


def test_the_disk_of_a_removed_entry_stays_and_is_used_again(up: Lab) -> None:
    disk = up.disk("db.data.qcow2")
    up.world.disks[disk] = FakeDisk(written=True)
    with_disks(up, "")
    action = up.must(Up())
    assert "a disk of db stays: artefacts/db.data.qcow2" in up.text(action)
    assert "clean --left-over db.data.qcow2" in up.text(action)
    with_disks(up, "{name: data, size_gigabytes: 1}")
    assert plugged(up) == ["attach_disk:lab-db:data"]
    assert up.world.disks[disk].written


def test_a_disk_that_was_unplugged_by_hand_is_plugged_in(up: Lab) -> None:
    up.world.domains["lab-db"].hardware.further.clear()
    assert any("disk data" in each for each in up.status().differences)
    assert plugged(up) == ["attach_disk:lab-db:data"]


def test_a_guest_that_does_not_let_go_is_named(up: Lab) -> None:
    with_disks(up, "")
    up.world.domains["lab-db"].clings = True
    action = up.do(Up())
    assert action.state is ActionState.FAILED
    assert "has not released the disk data" in action.faults[0].message


@pytest.mark.parametrize(
    "disks",
    [
        "{name: data, size_gigabytes: 1, cache: none}",
        "{name: data, size_gigabytes: 1, bus: scsi}",
        "{name: data, size_gigabytes: 1, serial: other}",
        "{name: data, size_gigabytes: 1, boot: 1}",
        "{name: data, size_gigabytes: 1}, {name: slow, size_gigabytes: 1, bus: sata}",
    ],
)
def test_what_qemu_cannot_change_alive_restarts_the_guest(up: Lab, disks: str) -> None:
    with_disks(up, disks)
    assert plugged(up) == ["destroy_domain:lab-db", "start_domain:lab-db"]
    assert up.status().differences == ()


def test_disks_grow_while_the_guest_runs(up: Lab) -> None:
    with_disks(up, "{name: data, size_gigabytes: 3}")
    up.bench.edit(
        "name: debian_12}}}\n  - name: alone", "name: debian_12, expand_gigabytes: 2}}}\n  - name: alone"
    )
    up.bench.generate()
    assert plugged(up) == ["grow_disk:lab-db:db-cloud-init.img", "grow_disk:lab-db:db.data.qcow2"]
    assert up.world.disks[up.disk("db.data.qcow2")].size == 3 << 30
    assert up.world.disks[up.disk("db-cloud-init.img")].size == (2 << 30) + (8 << 20)
    assert up.status().differences == ()


@pytest.mark.parametrize("kind", ["existing_disk: {path: own.qcow2", "network_guest: {"])
def test_the_boot_disk_of_every_kind_grows_while_its_guest_runs(lab: Lab, kind: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", lab.folder / "own.qcow2", "8M"], check=True)  # noqa: S607
    comma = "" if kind.endswith("{") else ", "
    lab.bench.edit(
        "cloud_image: {name: debian_12}}}\n  - name: alone",
        f"{kind}{comma}expand_gigabytes: 1}}}}}}\n  - name: alone",
    )
    lab.bench.generate("--provision", "db")
    lab.must(Up())
    lab.bench.edit("expand_gigabytes: 1", "expand_gigabytes: 2")
    lab.bench.generate()
    assert any("expand_gigabytes" in each and "1 -> 2" in each for each in lab.status().differences)
    assert plugged(lab) == ["grow_disk:lab-db:db-cloud-init.img"]
    assert lab.status().differences == ()
    assert plugged(lab) == []


def test_a_guest_restarts_for_the_growth_of_a_disk_that_it_only_reads(up: Lab) -> None:
    """QEMU does not resize it."""
    with_disks(up, "{name: data, size_gigabytes: 1}, {name: tools, size_gigabytes: 1, readonly: true}")
    up.must(Up())
    with_disks(up, "{name: data, size_gigabytes: 2}, {name: tools, size_gigabytes: 3, readonly: true}")
    assert "guest db: size_gigabytes of disk tools: 1 -> 3" in up.status().differences
    assert plugged(up) == ["destroy_domain:lab-db", "start_domain:lab-db"]
    assert up.status().differences == ()


def test_a_medium_is_changed_while_the_guest_runs(up: Lab) -> None:
    for name in ("one", "two"):
        (up.folder / f"{name}.iso").write_bytes(bytes(32769) + b"CD001" + name.encode().ljust(4000, b"\0"))
    data = "{name: data, size_gigabytes: 1}"
    with_disks(up, f"{data}, {{name: cd, device: cdrom}}")
    assert plugged(up) == ["destroy_domain:lab-db", "start_domain:lab-db"]
    for path in ("path: one.iso", "path: two.iso", None):
        with_disks(up, f"{data}, {{name: cd, device: cdrom{f', {path}' if path else ''}}}")
        assert plugged(up) == ["change_medium:lab-db:cd"]
        assert plugged(up) == []


@pytest.mark.parametrize("call", ["attach_disk:*", "stamp_domain:lab-db"])
def test_what_was_cut_off_is_gone_on_with(up: Lab, call: str) -> None:
    with_disks(up, "{name: data, size_gigabytes: 1}, {name: new, size_gigabytes: 1}")
    up.drivers.failures = [Failure(call, 1)]
    assert up.do(Up()).state is ActionState.FAILED
    up.must(Up())
    assert up.world.domains["lab-db"].hardware.further == ["data", "new"]
    assert up.status().differences == ()


def test_purge_removes_all_disks(up: Lab) -> None:
    up.must(Down(purge=True))
    assert "remove_disk:db.data.qcow2" in up.drivers.calls
