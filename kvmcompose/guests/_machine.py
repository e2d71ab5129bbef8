"""The virtual machine itself: the keys of a libvirt guest's hardware other than its disks and interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.guests._firmware import Arch, Firmware, check_firmware
from kvmcompose.render.hardware import Hardware, has_root_ports


class MachineKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Keys of the ``libvirt`` section, in libvirt's terms. Those that are not given are not in the state."""

    machine: str | None = None
    rng: Literal["virtio", "none"] | None = None
    firmware: Firmware | None = None
    tpm: bool = False
    arch: Arch | None = None


def check_machine(keys: MachineKeys, section: str) -> Iterator[Complaint]:
    """Yield combinations of keys in the ``section`` of a machine that libvirt or QEMU refuse."""
    yield from check_firmware(section, keys.firmware, keys.arch)
    is_arm = keys.arch == "aarch64"
    if keys.machine is not None and keys.machine.startswith("virt") is not is_arm:
        yield Complaint(
            code="hardware-conflict",
            path=(section, "machine"),
            message="a machine type of another architecture",
            found=keys.machine,
            wanted="virt, or a version of it" if is_arm else "q35, pc, or a version of them",
        )
    if keys.firmware == "uefi-secure" and keys.machine is not None and not has_root_ports(keys.machine):
        yield Complaint(
            code="hardware-conflict",
            path=(section, "machine"),
            message="secure boot needs System Management Mode with q35",
            found=keys.machine,
            wanted="q35, or a version of it",
        )


def hardware(keys: MachineKeys) -> Hardware:
    """Return the hardware that the keys describe."""
    given = {name: value for name in ("machine", "rng") if (value := getattr(keys, name)) is not None}
    if keys.arch == "aarch64":
        given = {"machine": "virt"} | given
    return Hardware(**given)
