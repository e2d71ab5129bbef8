"""Disks of a guest that runs, on a real host: plugged in, written, grown, kept over a restart, unplugged."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kvm import Project

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

YAML = """\
machines:
  - name: db
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro}}
      disks:
        - {name: cd, device: cdrom, path: one.iso}
PEERnetwork:
  bridges: [{name: br0, subnet: 10.79.0.0/24}]
  external_bridge: br0
"""
PEER = """\
  - name: peer
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro}}
"""
QUORUM = "        - {name: quorum, size_gigabytes: 1, shareable: true}\n"
CD = "        - {name: cd, device: cdrom, path: one.iso}\n"
DATA = "        - {name: data, size_gigabytes: 1}\n"
#: The digest of 4 MiB that nothing was written to.
EMPTY = hashlib.sha256(bytes(4 << 20)).hexdigest()
#: Prints the device with a serial number, in a guest without udev.
BY_SERIAL = (
    'for each in /sys/block/*; do [ "$(cat $each/serial 2>/dev/null)" = %s ] && echo ${each##*/}; done; true'
)


class Running:
    """The testbed, and what its guest has."""

    def __init__(self, project: Project) -> None:
        self.project, self.host = project, project.host
        #: The digest of what the guest wrote to its disk.
        self.written = ""

    def pid(self) -> str:
        return self.host.run(["pgrep", "-f", f"guest={self.project.name}-db"]).stdout.strip()

    def root(self, script: str, guest: str = "db") -> str:
        return self.project.inside(guest, "sudo", "sh", "-c", script)

    def device(self, serial: str, guest: str = "db") -> str:
        return self.project.inside(guest, "sh", "-c", BY_SERIAL % serial).strip()

    def size(self, device: str, guest: str = "db") -> int:
        """In bytes."""
        return 512 * int(self.project.inside(guest, "cat", f"/sys/block/{device}/size"))

    def sum(self, device: str) -> str:
        return self.root(f"dd if=/dev/{device} bs=1M count=4 2>/dev/null | sha256sum").split()[0]

    def up(self) -> str:
        """``up``, without a restart; then nothing differs."""
        before = self.pid()
        said = self.project.run("up").stderr
        assert self.pid() == before, said
        assert self.project.json("status")["differences"] == [], said
        return said

    def medium(self) -> str:
        """The digest of what QEMU has opened as the medium of the CD-ROM, "" for none."""
        shown = self.host.run(["ls", "-l", f"/proc/{self.pid()}/fd"]).stdout
        found = re.findall(r"-> (\S+\.iso)$", shown, re.MULTILINE)
        (path,) = [each for each in found if "cloud-init" not in each] or [""]
        return path.rpartition("/")[2]


def iso(name: str) -> str:
    """A text that has the mark of an ISO 9660 image, and differs by name."""
    return ("\0" * 32769 + "CD001" + name).ljust(65536, "\0")


@pytest.fixture(scope="module")
def running(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    files = {"kvm-compose.yaml": YAML.replace("PEER", PEER), "one.iso": iso("one"), "two.iso": iso("two")}
    project = Project(real_host, tmp_path_factory.mktemp("disks"), "disks", files)
    try:
        project.run("up")
        yield Running(project)
    finally:
        project.run("down", "--purge", "--timeout", "0", status=None)


def on_shared(running: Running, guest: str, script: str) -> str:
    """Run a script with the disk that guests share as ``$disk``. Its size in GiB is printed first."""
    find = f"disk=/dev/$({BY_SERIAL % 'quorum'})"
    size = "echo $(($(cat /sys/block/${disk##*/}/size) >> 21))"
    return running.root(f"{find}; {size}; echo 3 >/proc/sys/vm/drop_caches; {script}", guest)


def test_guests_share_a_disk(running: Running) -> None:
    """Plugged into both while they run, it grows in both; one restarts; unplugged, it stays."""
    project, larger = running.project, QUORUM.replace("1", "2")
    disk = project.folder / "artefacts/shared.quorum.raw"
    project.edit(CD, f"{QUORUM}{CD}")
    project.edit(PEER, f"{PEER}      disks:\n{QUORUM}")
    assert running.up().count("disk quorum is attached") == 2
    on_shared(running, "db", "echo from-db >$disk && sync")
    assert on_shared(running, "peer", "head -c 7 $disk").split() == ["1", "from-db"]

    yaml = project.folder / "kvm-compose.yaml"
    yaml.write_text(yaml.read_text().replace(QUORUM, larger))
    running.up()
    assert disk.stat().st_size == 2 << 30
    assert on_shared(running, "peer", "echo from-peer >$disk && sync") == "2"
    assert on_shared(running, "db", "head -c 9 $disk").split() == ["2", "from-peer"]

    # the beginning of a qcow2 image, which nobody takes it for
    on_shared(running, "db", r"printf 'QFI\373\0\0\0\3' >$disk && sync")
    project.run("restart", "peer")
    assert on_shared(running, "peer", "head -c 3 $disk").split() == ["2", "QFI"]
    yaml.write_text(yaml.read_text().replace(f"{PEER}      disks:\n{larger}", "").replace(larger, ""))
    project.run("generate")
    (project.folder / ".kvm-compose/in-use.json").unlink()  # QEMU's locks say it, too
    refused = project.run("clean", "--left-over", disk.name, status=3).stderr
    assert f"artefacts/{disk.name} is in use: a guest has it" in refused
    said = running.up()
    assert "disk quorum is detached" in said
    assert "a disk that guests shared stays" in said
    assert disk.is_file()


def test_a_disk_is_plugged_in_and_grows_with_its_data(running: Running) -> None:
    project = running.project
    # in front of the other entry: a place in the list means nothing to those that run
    project.edit(CD, f"{DATA}{CD}")
    assert "disk data is attached" in running.up()
    device = running.device("data")
    assert running.size(device) == 1 << 30
    fill = f"dd if=/dev/urandom of=/tmp/it bs=1M count=4 2>/dev/null && cat /tmp/it >/dev/{device} && sync"
    written = running.root(f"{fill} && sha256sum /tmp/it").split()[0]
    assert written != EMPTY
    running.written = written
    assert running.sum(device) == written

    # it grows with its data, as does the boot disk
    project.edit("size_gigabytes: 1", "size_gigabytes: 2")
    project.edit("{name: micro}", "{name: micro, expand_gigabytes: 1}")
    boot = running.size("vda")
    assert "data kept" in running.up()
    assert (running.size(device), running.size("vda")) == (2 << 30, boot + (1 << 30))
    assert running.sum(device) == written
    assert "nothing to do" in running.up()
    project.edit("size_gigabytes: 2", "size_gigabytes: 1")
    refused = project.run("up", status=None)
    assert "do not shrink: 2 GiB -> 1 GiB" in refused.stderr
    assert "size_gigabytes: 2 keeps it" in refused.stderr
    project.edit("size_gigabytes: 1", "size_gigabytes: 2")


@pytest.mark.long_only
def test_snapshots_include_a_further_disk(running: Running) -> None:
    """It takes half a minute: the memory of the guest is in them."""
    project, device = running.project, running.device("data")
    project.run("snapshot", "create", "first")
    running.root(f"dd if=/dev/zero of=/dev/{device} bs=1M count=4 2>/dev/null && sync")
    assert running.sum(device) == EMPTY
    project.run("snapshot", "restore", "first")
    assert running.sum(running.device("data")) == running.written


@pytest.mark.long_only
def test_a_snapshot_has_disks_that_the_guest_has_no_longer(running: Running) -> None:
    """libvirt 9.0 crashes when one of them is deleted. It takes half a minute."""
    project, disk = running.project, running.project.folder / "artefacts/db.data.qcow2"

    def entries() -> list[str]:
        table = subprocess.run(
            ["qemu-img", "snapshot", "-U", "-l", str(disk)],  # noqa: S607
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return [line.split()[1] for line in table.stdout.splitlines()[2:]]

    project.edit(CD, f"{CD}{DATA.replace('data', 'more')}")
    running.up()
    project.run("snapshot", "create", "second")
    project.edit(DATA.replace("1", "2"), "")
    running.up()
    said = project.run("snapshot", "restore", "second").stderr
    assert "db.data.qcow2 is as it was, and in the guest until kvm-compose up takes it out" in said
    assert running.sum(running.device("data")) == running.written
    running.up()
    assert not running.device("data")
    project.run("snapshot", "create", "third")  # libvirt 9.0 misses the disk in it when second is deleted
    said = project.run("snapshot", "restore", "first").stderr
    assert "db.more.qcow2 is not in the snapshot and keeps its data" in said
    running.up()
    assert running.device("more")
    assert entries() == ["first", "second"]
    project.run("snapshot", "delete", "second")
    assert entries() == ["first"]
    project.run("snapshot", "delete", "third")
    # with another target
    project.run("down")
    project.run("up")
    project.run("snapshot", "delete", "first")
    assert entries() == []
    assert project.json("snapshot", "list") == []
    project.edit(f"{CD}{DATA.replace('data', 'more')}", f"{DATA.replace('1', '2')}{CD}")
    running.up()


def test_a_disk_keeps_its_data_and_is_unplugged(running: Running) -> None:
    project, folder = running.project, running.project.folder
    # off and on: the place in the list is the target now
    project.run("down")
    project.run("up")
    device = running.device("data")
    assert running.sum(device) == running.written

    # unplugged by hand, it comes back; without its entry it goes, and its file stays
    target = running.host.virsh("domblklist", "disks-db").stdout
    (data,) = re.findall(r"(vd\w+)\s+\S+db\.data\.qcow2", target)
    running.host.virsh("detach-disk", "disks-db", data, "--live")
    assert any("disk data" in each for each in project.json("status")["differences"])
    assert "disk data is attached" in running.up()
    assert running.sum(running.device("data")) == running.written
    project.edit(DATA.replace("1", "2"), "")
    said = running.up()
    assert "disk data is detached" in said
    assert "a disk of db stays: artefacts/db.data.qcow2" in said
    assert not running.device("data")
    assert (folder / "artefacts/db.data.qcow2").is_file()


def test_the_medium_of_a_cd_rom_is_changed(running: Running) -> None:
    assert running.medium() == "one.iso"
    running.project.edit("path: one.iso", "path: two.iso")
    assert "the CD-ROM cd has another medium" in running.up()
    assert running.medium() == "two.iso"
    running.project.edit(", path: two.iso", "")
    running.up()
    assert running.medium() == ""
    running.project.edit("device: cdrom", "device: cdrom, path: one.iso")
    running.up()
    assert running.medium() == "one.iso"


@pytest.mark.long_only
def test_disks_on_scsi_and_usb_come_and_go(running: Running) -> None:
    """The first on scsi brings its controller."""
    one, other = (f"        - {{name: {bus[0]}, size_gigabytes: 1, bus: {bus}}}\n" for bus in ("scsi", "usb"))
    more = f"{CD}{one}{other}"
    running.project.edit(CD, more)
    said = running.up()
    assert "disk s is attached" in said
    assert "disk u is attached" in said
    running.project.edit(more, CD)
    running.up()
    disks = running.host.virsh("domblklist", "disks-db").stdout
    assert "db.s.qcow2" not in disks
    assert "db.u.qcow2" not in disks


def test_a_qcow2_disk_of_a_guest_that_was_shut_off_is_sound(running: Running) -> None:
    running.project.run("down")
    for path in running.project.folder.glob("artefacts/db*.qcow2"):
        subprocess.run(["qemu-img", "check", str(path)], check=True, capture_output=True)  # noqa: S607
