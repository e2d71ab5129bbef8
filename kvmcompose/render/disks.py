"""Further disks of a domain, as the template of the domain XML sees them."""

from __future__ import annotations

import msgspec

#: The aliases of further disks in the template start so; those that libvirt does not choose start with "ua-".
#: By it a disk is found in a domain that runs, whatever its target is there.
ALIAS_PREFIX = "ua-disk-"


class DiskDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A further disk or CD-ROM in libvirt's terms. ``file`` is None for a CD-ROM without a medium.

    ``boot`` is its place in the boot order, None for a device that nothing is booted from. ``shareable``:
    other domains have it as well.
    """

    name: str
    device: str
    file: str | None
    format: str
    target: str
    bus: str
    cache: str | None
    discard: str | None
    readonly: bool
    shareable: bool = False
    serial: str | None
    boot: int | None


class BootDisk(msgspec.Struct, frozen=True, kw_only=True):
    """How a domain sees its boot disk, in libvirt's terms."""

    target: str = "vda"
    bus: str = "virtio"
    cache: str | None = None
    discard: str = "unmap"
    serial: str | None = None


class BootOrder(msgspec.Struct, frozen=True):
    """The places of the installation medium and of the boot disk, where further disks have one, too."""

    media: int
    disk: int


def boot_order(further: tuple[DiskDevice, ...]) -> BootOrder | None:
    """Return the places of medium and boot disk, after the further disks that have one.

    None where no further disk has one: libvirt orders by the kind of device then.
    """
    last = max((each.boot for each in further if each.boot is not None), default=None)
    return BootOrder(last + 1, last + 2) if last is not None else None
