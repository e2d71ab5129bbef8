"""The hardware of a domain other than its disks and interfaces, as the template of the domain XML sees it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class CpuTopology(msgspec.Struct, frozen=True):
    """The processors of a guest: the product of the numbers is how many there are."""

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1


class NumaCell(msgspec.Struct, frozen=True):
    """A NUMA node: the numbers of its processors, as in ``0-3,8``, and its memory in MiB."""

    cpus: str
    memory_mb: int


class Video(msgspec.Struct, frozen=True):
    """A video device. ``vram_kib`` is its memory in KiB, ``heads`` the number of its screens."""

    model: str
    vram_kib: int | None = None
    heads: int | None = None


class Watchdog(msgspec.Struct, frozen=True):
    """A watchdog device, and what happens when the guest no longer feeds it."""

    model: str
    action: str


class Clock(msgspec.Struct, frozen=True):
    """The clock when the guest starts: libvirt's ``offset``, and what that needs (seconds to add to UTC)."""

    offset: str = "utc"
    timezone: str | None = None
    adjustment: int | None = None


class HostDevice(msgspec.Struct, frozen=True):
    """A device of the host.

    ``type`` is ``pci``, whose address is ``domain``, ``bus``, ``slot`` and ``function``, or ``usb``, which is
    named by ``vendor`` and ``product``. All are in hexadecimal, with 0x.
    """

    type: str
    domain: str = ""
    bus: str = ""
    slot: str = ""
    function: str = ""
    vendor: str = ""
    product: str = ""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain has besides disks and interfaces, in libvirt's terms. The defaults are every guest's.

    ``machine`` is the machine type, ``rng`` the model of the random number generator. Without a ``cpu_mode``
    or ``video`` they are the usual ones for the host and the architecture. ``boot`` are libvirt's names of
    boot devices; empty: those that there are. ``hugepages_kib`` is the size of the pages of the memory in
    KiB. ``usb`` is the model of the USB controller; None is libvirt's own choice. ``hyperv``: what Windows
    makes use of.
    """

    machine: str = "q35"
    rng: str = "virtio"
    cpu_mode: str | None = None
    cpu_model: str | None = None
    cpu_features: Mapping[str, str] = {}
    topology: CpuTopology | None = None
    numa: tuple[NumaCell, ...] = ()
    hugepages_kib: int | None = None
    boot: tuple[str, ...] = ()
    clock: Clock = Clock()
    graphics: str = "none"
    video: Video | None = None
    sound: str | None = None
    usb: str | None = None
    watchdog: Watchdog | None = None
    hyperv: bool = False
    host_devices: tuple[HostDevice, ...] = ()


def ports_of(hardware: Hardware) -> int:
    """Return how many PCIe ports the hardware needs, besides what every guest has."""
    return sum(each.type == "pci" for each in hardware.host_devices)


def has_root_ports(machine: str) -> bool:
    """Return whether devices of this machine type are in PCIe ports: a ``pc`` has a PCI bus without any."""
    return not (machine == "pc" or machine.startswith("pc-i440fx-"))
