"""Which snapshot QEMU takes for which name, and what is done about it."""

from __future__ import annotations

import asyncio

import pytest
from recorder import Recorder

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.definitions import Disk
from kvmcompose.providers.libvirt.snapshot_definitions import snapshot_disks
from kvmcompose.providers.libvirt.snapshot_tables import (
    DiskSnapshot,
    SnapshotTable,
    corrections,
    read,
    refuse_to_create,
)


def table(*entries: tuple[str, str], memory: int = 0) -> SnapshotTable:
    return SnapshotTable(
        "vda", "/disk", tuple(DiskSnapshot(number, name, memory) for number, name in entries)
    )


def test_a_name_that_is_no_id_needs_no_correction() -> None:
    assert corrections("one", "clean", "shutoff", [table(("1", "clean"), ("2", "3"))]) == []
    assert corrections("one", "1", "running", [table(("1", "1"), ("2", "x"))]) == []


def test_a_name_that_is_the_id_of_another_is_corrected_by_id() -> None:
    tables = [table(("1", "2"), ("2", "other"))]
    assert corrections("one", "2", "shutoff", tables) == [["qemu-img", "snapshot", "-a", "1", "--", "/disk"]]


def test_memory_cannot_be_corrected() -> None:
    with pytest.raises(DriverError) as refused:
        corrections("one", "2", "running", [table(("1", "2"), ("2", "other"))])
    assert "named other" in refused.value.message
    assert "-l snapshot.name=2 " in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("entries", "found"), [((), "no snapshot"), ((("1", "a"), ("2", "a")), "2 snapshots")]
)
def test_what_is_not_in_the_disk_once_is_not_restored(
    entries: tuple[tuple[str, str], ...], found: str
) -> None:
    with pytest.raises(DriverError, match=f"vda has {found} named a"):
        corrections("one", "a", "shutoff", [table(*entries)])


def test_none_is_made_that_would_be_confused() -> None:
    with pytest.raises(DriverError, match="has one with that ID, named clean"):
        refuse_to_create("one", "1", [table(("1", "clean"))])
    with pytest.raises(DriverError, match="that libvirt does not know"):
        refuse_to_create("one", "clean", [table(("1", "clean"))])
    with pytest.raises(DriverError, match="it would get the ID 3"):
        refuse_to_create("one", "clean", [table(("1", "3"), ("2", "x"), memory=1)])
    refuse_to_create("one", "clean", [table(("1", "3"), ("2", "x"))])  # restoring that is corrected


def test_what_qemu_img_says_is_read() -> None:
    said = b'{"snapshots": [{"id": "1", "name": "2", "vm-state-size": 5, "icount": 0}], "format": "qcow2"}'
    machine = Recorder(("/a", 0, said, b""), ("/b", 0, b"{}", b""), ("/c", 0, b"[", b""))
    disks = [Disk("vda", "qcow2", writable=True, path=path) for path in ("/a", "/b", "")]
    first, second = asyncio.run(read(machine, disks))
    assert (first.entries, second.entries) == ((DiskSnapshot("1", "2", 5),), ())
    with pytest.raises(DriverError, match="/c"):
        asyncio.run(read(machine, [Disk("vda", "qcow2", writable=True, path="/c")]))


def test_the_disks_of_a_snapshot_are_those_it_lies_in() -> None:
    xml = """<domainsnapshot><name>x</name>
    <disks><disk name='vda' snapshot='internal'/><disk name='vdb' snapshot='no'/></disks>
    <domain type='kvm'><devices>
      <disk type='file'><driver type='qcow2'/><source file='/d/a'/><target dev='vda'/></disk>
      <disk type='file'><driver type='raw'/><source file='/d/b'/><target dev='vdb'/></disk>
    </devices></domain></domainsnapshot>"""
    assert [each.path for each in snapshot_disks(xml)] == ["/d/a"]
