"""The virtual machine itself: the keys of a libvirt guest's hardware other than its disks and interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.render.hardware import Hardware


class MachineKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Keys of the ``libvirt`` section, in libvirt's terms. Those that are not given are not in the state."""

    machine: str | None = None
    rng: Literal["virtio", "none"] | None = None


def check_machine(keys: MachineKeys, section: str) -> Iterator[Complaint]:
    """Yield combinations of keys in the ``section`` of a machine that libvirt or QEMU refuse."""
    if keys.machine is not None and keys.machine.startswith("virt"):
        yield Complaint(
            code="hardware-conflict",
            path=(section, "machine"),
            message="a machine type of another architecture",
            found=keys.machine,
            wanted="q35, pc, or a version of them",
        )


def hardware(keys: MachineKeys) -> Hardware:
    """Return the hardware that the keys describe."""
    given = {name: value for name in ("machine", "rng") if (value := getattr(keys, name)) is not None}
    return Hardware(**given)
