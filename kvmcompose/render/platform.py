"""The firmware and the architecture of a domain, as the template of the domain XML sees them."""

from __future__ import annotations

import uuid

import msgspec

#: Names of guests become UUIDs in this namespace (RFC 4122, version 5).
_GUESTS = uuid.UUID("5f8b7c2e-61a9-5d0b-9a3e-2d6c4b1f7e90")


class Firmware(msgspec.Struct, frozen=True):
    """UEFI firmware. ``nvram`` is the path of its variables on the testbed host; libvirt makes the file.

    ``secure``: it starts only what is signed, by the keys of Microsoft that it is given.
    """

    nvram: str
    secure: bool


class Platform(msgspec.Struct, frozen=True):
    """What depends on the architecture. ``cpu_mode`` is libvirt's, ``video`` the model of a screen.

    ``cdrom`` is the bus of a CD-ROM, ``gic`` the version of the interrupt controller where that is said.
    """

    arch: str
    cpu_mode: str
    apic: bool
    gic: int | None
    video: str
    keyboard: bool
    cdrom: str
    tpm: str


def domain_uuid(project: str, identity: str) -> str:
    """Return the UUID of the domain of a guest for which libvirt keeps something by its UUID."""
    return str(uuid.uuid5(_GUESTS, f"{project}/{identity}"))


def cdrom_bus(arch: str) -> str:
    """Return the bus of a CD-ROM in libvirt's terms."""
    return "scsi" if arch == "aarch64" else "sata"


def platform_of(arch: str, virt_type: str) -> Platform:
    """Return what a domain of an architecture has; ``virt_type`` is ``kvm`` or ``qemu``."""
    emulated = virt_type == "qemu"
    if arch == "aarch64":
        return Platform(
            arch=arch,
            # libvirt has no host-model for this architecture
            cpu_mode="maximum" if emulated else "host-passthrough",
            apic=False,
            # version 2, which libvirt would choose, has at most 8 CPUs; KVM has the version of the host
            gic=3 if emulated else None,
            video="virtio",
            keyboard=True,
            cdrom=cdrom_bus(arch),
            tpm="tpm-tis",
        )
    return Platform(
        arch=arch,
        cpu_mode="maximum" if emulated else "host-model",
        apic=True,
        gic=None,
        video="vga",
        keyboard=False,
        cdrom=cdrom_bus(arch),
        tpm="tpm-crb",
    )
