"""Disks that several machines have: what their entries have to have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from kvmcompose.core.document import Path
from kvmcompose.core.errors import Complaint
from kvmcompose.guests._further_disks import FurtherDisk, disk_names


class _Entry(msgspec.Struct, frozen=True):
    machine: str
    place: str
    disk: FurtherDisk


def shared_names(entries: Sequence[FurtherDisk]) -> tuple[str, ...]:
    """Return the names of the disks that a machine shares with others, or may."""
    return tuple(name for name, entry in zip(disk_names(entries), entries, strict=True) if entry.shareable)


def check_shared_disks(
    machines: Iterable[tuple[Path, str, Sequence[FurtherDisk]]],
) -> Iterator[Complaint]:
    """Yield entries that differ from that of the same name of another machine, where one is shareable.

    ``machines`` are the path of each one's section, its name and its further disks.
    """
    first: dict[str, _Entry] = {}
    for at, machine, entries in machines:
        for index, (name, disk) in enumerate(zip(disk_names(entries), entries, strict=True)):
            path: Path = (*at, "disks", index)
            entry = _Entry(machine, f"machines[{at[1]}].{at[2]}.disks[{index}]", disk)
            other = first.setdefault(name, entry)
            if other.machine == machine:
                continue
            if disk.shareable != other.disk.shareable:
                yield _not_shared(name, path, entry, other)
            elif disk.shareable and disk.size_gigabytes != other.disk.size_gigabytes:
                yield Complaint(
                    code="hardware-conflict",
                    path=(*path, "size_gigabytes"),
                    message=f"the disk {name} is shared, and {other.machine} has it with"
                    f" {other.disk.size_gigabytes} GiB ({other.place})",
                    found=str(disk.size_gigabytes),
                    wanted="one size in all machines",
                    hint="write the entry once, under defaults or behind a YAML anchor",
                )


def _not_shared(name: str, path: Path, entry: _Entry, other: _Entry) -> Complaint:
    is_here = entry.disk.shareable
    there = "which is not shareable" if is_here else "which is shareable"
    return Complaint(
        code="hardware-conflict",
        path=(*path, "shareable") if is_here else path,
        message=f"{other.machine} has another disk {name}, {there} ({other.place})",
        hint="shareable: true in both is one disk; two disks need two names",
        at_key=is_here,
    )
