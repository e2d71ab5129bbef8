"""The snapshots inside a disk, and which of them QEMU picks for a name.

A qcow2 image gives each of its snapshots an ID and a name (docs/interop/qcow2.rst, "Snapshots"). To restore
one (``qemu-img snapshot -a``, ``loadvm``, which libvirt calls) QEMU looks for the *ID* first and for the name
only if there is no such ID (``find_snapshot_by_id_or_name`` in block/qcow2-snapshot.c); to delete one
(``qemu-img snapshot -d``, ``delvm``) it knows names only, since QEMU 3.1. So a snapshot named 2 is deleted
safely, while restoring it restores the one with the ID 2. IDs are unique: by the ID nothing is confused.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.definitions import Disk

#: A snapshot of a guest that was off, in libvirt's words.
OFF = "shutoff"


class DiskSnapshot(msgspec.Struct, frozen=True, rename="kebab"):
    """A snapshot in a disk. ``vm_state_size`` (bytes) is 0 for one created while the guest was off."""

    id: str
    name: str
    vm_state_size: int = 0


class _Info(msgspec.Struct, frozen=True):
    snapshots: tuple[DiskSnapshot, ...] = ()


class SnapshotTable(msgspec.Struct, frozen=True):
    """The snapshots of one disk. ``target`` is the guest's name of it (vda), ``path`` the host's."""

    target: str
    path: str
    entries: tuple[DiskSnapshot, ...]

    def taken_for(self, name: str) -> DiskSnapshot | None:
        """Return the other snapshot that QEMU confuses with the one of that name, because of its ID."""
        return next((each for each in self.entries if each.id == name != each.name), None)

    def named(self, name: str) -> DiskSnapshot:
        """Return the snapshot of that name. Raises DriverError when there is none, or more than one."""
        found = [each for each in self.entries if each.name == name]
        if len(found) == 1:
            return found[0]
        how_many = f"{len(found)} snapshots" if found else "no snapshot"
        raise DriverError(
            f"the disk {self.target} has {how_many} named {name}", hint=f"qemu-img snapshot -lU {self.path}"
        )


async def read(runner: CommandRunner, disks: Iterable[Disk]) -> list[SnapshotTable]:
    """Read the snapshots of some disks, which may belong to root. Raises DriverError."""
    found = []
    for disk in disks:
        if disk.path:
            done = await runner.run(question(disk.path), privileged=True)
            found.append(answer(disk.target, disk.path, done.stdout))
    return found


def question(path: str) -> list[str]:
    """Return the command that describes a disk, also while a guest uses it."""
    return ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", "--", path]


def answer(target: str, path: str, output: bytes) -> SnapshotTable:
    """Parse what that command prints. Raises DriverError for anything else."""
    try:
        return SnapshotTable(target, path, msgspec.json.decode(output, type=_Info).snapshots)
    except msgspec.DecodeError as error:
        raise DriverError(f"qemu-img printed invalid output for {path}: {error}") from error


def refuse_to_create(domain: str, name: str, tables: list[SnapshotTable]) -> None:
    """Raise DriverError when a new snapshot would replace another one, or be confused with one.

    QEMU replaces a snapshot of the same name silently when the guest runs.
    """
    for table in tables:
        other = table.taken_for(name)
        if other is not None:
            raise DriverError(
                f"{domain} cannot have a snapshot {name}: its disk {table.target} has one with that ID,"
                f" named {other.name}, and QEMU confuses the two",
                hint=f"choose another name: kvm-compose snapshot create v{name}",
            )
        if any(each.name == name for each in table.entries):
            raise DriverError(
                f"the disk {table.target} of {domain} has a snapshot {name} that libvirt does not know",
                hint="choose another name; to delete that one, while the guest is off:"
                f" sudo qemu-img snapshot -d {name} {table.path}",
            )
        # as QEMU chooses it (find_new_snapshot_id)
        numbers = [int(each.id) for each in table.entries if each.id.isascii() and each.id.isdecimal()]
        coming = str(max(numbers, default=0) + 1)
        if any(each.name == coming and each.vm_state_size for each in table.entries):
            raise DriverError(
                f"{domain} cannot have another snapshot: it would get the ID {coming}, and QEMU would"
                f" confuse it with the snapshot named {coming}",
                hint=f"delete that one: kvm-compose snapshot delete {coming};"
                f" to keep it, restore it first, and create it again as v{coming}",
            )


def corrections(domain: str, name: str, state: str, tables: list[SnapshotTable]) -> list[list[str]]:
    """Return the commands that correct what QEMU restores wrongly at libvirt's request.

    Raises DriverError when the snapshot is not in a disk, and when no command can correct it: memory is
    loaded by name alone.
    """
    found = {table.path: table.named(name) for table in tables}
    confused = [(table, other) for table in tables if (other := table.taken_for(name)) is not None]
    if confused and state != OFF:
        table, other = confused[0]
        copy = f"{table.path}.{name}.qcow2"
        raise DriverError(
            f"the snapshot {name} of {domain} cannot be restored: its disk {table.target} has another one"
            f" with that ID, named {other.name}, and QEMU would restore that one",
            hint=f"delete the other one (kvm-compose snapshot delete {other.name}), or extract the data:"
            f" sudo qemu-img convert -U -l snapshot.name={name} -O qcow2 {table.path} {copy}",
        )
    # QEMU looks for an ID first, so it is unambiguous
    argv = ["qemu-img", "snapshot", "-a"]
    return [[*argv, found[table.path].id, "--", table.path] for table, _other in confused]
