"""When a disk counts as one that nobody has written to."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from recorder import Recorder

from kvmcompose.hosts.errors import DriverError
from kvmcompose.images import qcow2
from kvmcompose.providers.disks.driver import HostDisks

MIB = 1 << 20
NAME = b"images/base.qcow2"


def head(*, entries: int = 4, snapshots: int = 0, backing: bytes = NAME) -> bytes:
    """A version 2 header as QEMU writes it, with its first-level table at 64 KiB."""
    fields = (b"QFI\xfb", 2, 80 if backing else 0, len(backing), 16, 64 * MIB, 0, entries, 65536, 131072, 1)
    return struct.pack(">4sIQIIQIIQQIIQ", *fields, snapshots, 0).ljust(80, b"\0") + backing


def disks(beginning: bytes, table: bytes) -> HostDisks:
    return HostDisks(Recorder((" skip=0 ", 0, beginning, b""), (" skip=65536 ", 0, table, b"")))


def test_disk_without_a_cluster_is_pristine() -> None:
    path = Path("/p/disk.img")
    assert asyncio.run(disks(head(), bytes(32)).pristine(path))
    assert not asyncio.run(disks(head(), bytes(31) + b"\1").pristine(path))
    assert not asyncio.run(disks(head(), bytes(8)).pristine(path))  # cut off
    assert not asyncio.run(disks(head(snapshots=1), bytes(32)).pristine(path))
    assert not asyncio.run(disks(b"raw" * 100, b"").pristine(path))
    assert asyncio.run(disks(head(entries=0), b"").pristine(path))


def test_damaged_disk_is_an_error() -> None:
    for damaged in (head()[:50], head(entries=1 << 30)):
        with pytest.raises(DriverError, match="not a valid qcow2 image"):
            asyncio.run(disks(damaged, b"").pristine(Path("/p/disk.img")))


@pytest.mark.parametrize("status", [1, 137, -9])
def test_disk_that_could_not_be_read_is_not_taken_for_a_pristine_one(status: int) -> None:
    machine = Recorder((" skip=0 ", 0, head(), b""), (" skip=65536 ", status, bytes(32), b"dd: error"))
    with pytest.raises(DriverError, match=r"cannot read /p/disk\.img on main: dd: error"):
        asyncio.run(HostDisks(machine).pristine(Path("/p/disk.img")))


def test_only_overlays_are_reset() -> None:
    for beginning in (b"raw", head(backing=b"")):
        with pytest.raises(DriverError, match="is not an overlay"):
            asyncio.run(disks(beginning, b"").reset_overlay(Path("/p/disk.img")))


def test_overlay_that_cannot_be_made_leaves_no_file() -> None:
    machine = Recorder((" skip=0 ", 0, head(), b""), ("qemu-img", 1, b"", b"No space left on device"))
    with pytest.raises(DriverError, match="No space left"):
        asyncio.run(HostDisks(machine).reset_overlay(Path("/p/disk.img")))
    create, remove = machine.commands[1:]
    assert create[:-2] == [
        "qemu-img", "create", "-q", "-f", "qcow2", "-b", NAME.decode(), "-F", "qcow2", "--",
    ]  # fmt: skip
    assert create[-1] == str(64 * MIB)
    assert remove == ["rm", "-f", "--", create[-2]]


def test_header_and_table_of_an_image() -> None:
    header = qcow2.parse_header(head())
    assert header is not None
    assert (header.backing_file, header.virtual_size) == (NAME.decode(), 64 * MIB)
    assert qcow2.parse_header(b"raw") is None
    assert qcow2.l1_table(head(entries=3)) == qcow2.L1Table(offset=65536, length=24)
    assert qcow2.l1_table(b"raw") is None
