"""The virtual machine itself: the keys of a libvirt guest's hardware other than its disks and interfaces."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvmcompose.core.deployable import HardwareNeed
from kvmcompose.guests._firmware import Arch, Firmware
from kvmcompose.render.hardware import (
    Clock,
    CpuTopology,
    Hardware,
    HostDevice,
    NumaCell,
    Video,
    Watchdog,
)

#: The sizes of huge pages, in KiB.
PAGE_SIZES = {"2M": 2048, "1G": 1 << 20}
#: libvirt's names of boot devices.
_BOOT_DEVICES = {"disk": "hd", "network": "network", "cdrom": "cdrom"}
#: libvirt passes over devices that the guest does not have.
_FROM_NETWORK: tuple[Literal["network", "disk"], ...] = ("network", "disk")
_KIB_OF_MIB = 1024


class CpuTopologyKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ``topology`` of ``cpu``: the product of the numbers is that of all processors."""

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1


class CpuKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key ``cpu``. ``features`` are names of features, with libvirt's policies."""

    mode: Literal["host-model", "host-passthrough", "maximum", "custom"] | None = None
    model: str | None = None
    topology: CpuTopologyKeys | None = None
    features: dict[str, Literal["force", "require", "optional", "disable", "forbid"]] = {}


class VideoKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key ``video``. ``vram_mb`` is the memory of the device in MiB."""

    model: str
    vram_mb: int | None = None
    heads: int | None = None


class WatchdogKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key ``watchdog``."""

    model: str
    action: Literal["reset", "shutdown", "poweroff", "pause", "none", "inject-nmi"] = "reset"


class ClockKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key ``clock``, where it is not a word: one of these is set."""

    timezone: str | None = None
    offset_seconds: int | None = None


class HostDeviceKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device of the host: its PCI address, or the vendor and product of a USB device. One is set."""

    pci: str | None = None
    usb: str | None = None


class MachineKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Keys of the ``libvirt`` section, in libvirt's terms. Those that are not given are not in the state."""

    machine: str | None = None
    cpu: CpuKeys | None = None
    numa: tuple[NumaCell, ...] = ()
    hugepages: Literal["2M", "1G"] | None = None
    boot: tuple[Literal["disk", "network", "cdrom"], ...] = ()
    clock: str | ClockKeys | None = None
    graphics: Literal["none", "vnc", "spice"] | None = None
    video: str | VideoKeys | None = None
    sound: str | None = None
    usb: str | None = None
    watchdog: str | WatchdogKeys | None = None
    rng: Literal["virtio", "none"] | None = None
    hyperv: bool | None = None
    host_devices: tuple[HostDeviceKeys, ...] = ()
    firmware: Firmware | None = None
    tpm: bool = False
    arch: Arch | None = None


def video_of(keys: MachineKeys) -> VideoKeys | None:
    """Return the key ``video`` in its long form."""
    return VideoKeys(keys.video) if isinstance(keys.video, str) else keys.video


def watchdog_of(keys: MachineKeys) -> WatchdogKeys | None:
    """Return the key ``watchdog`` in its long form."""
    return WatchdogKeys(keys.watchdog) if isinstance(keys.watchdog, str) else keys.watchdog


def hardware(keys: MachineKeys, *, has_screen: bool, from_network: bool = False) -> Hardware:
    """Return the hardware that the keys describe.

    ``has_screen``: without ``graphics``, too. ``from_network``: without ``boot``, it boots from the network
    before its disks.
    """
    cpu = keys.cpu or CpuKeys()
    graphics = keys.graphics or ("vnc" if has_screen else "none")
    watchdog = watchdog_of(keys)
    return Hardware(
        machine=keys.machine or ("virt" if keys.arch == "aarch64" else "q35"),
        rng=keys.rng or "virtio",
        cpu_mode=cpu.mode or ("custom" if cpu.model else None),
        cpu_model=cpu.model,
        cpu_features=cpu.features,
        topology=msgspec.convert(cpu.topology, CpuTopology, from_attributes=True) if cpu.topology else None,
        numa=keys.numa,
        hugepages_kib=PAGE_SIZES[keys.hugepages] if keys.hugepages else None,
        boot=tuple(_BOOT_DEVICES[each] for each in keys.boot or (_FROM_NETWORK if from_network else ())),
        clock=_clock(keys.clock),
        graphics=graphics,
        video=_video(video_of(keys)),
        sound=keys.sound,
        usb=keys.usb,
        watchdog=Watchdog(watchdog.model, watchdog.action) if watchdog is not None else None,
        hyperv=keys.hyperv or False,
        host_devices=tuple(map(_host_device, keys.host_devices)),
    )


def hardware_need(keys: MachineKeys) -> HardwareNeed:
    """Return what of the keys depends on the host."""
    cpu, video = keys.cpu or CpuKeys(), video_of(keys)
    return HardwareNeed(
        machine=keys.machine or "",
        cpu_mode=cpu.mode or "",
        cpu_model=cpu.model or "",
        graphics=keys.graphics if keys.graphics not in (None, "none") else "",
        video=video.model if video is not None else "",
        hugepages_kib=PAGE_SIZES[keys.hugepages] if keys.hugepages is not None else 0,
        pci=any(each.pci is not None for each in keys.host_devices),
    )


def _video(keys: VideoKeys | None) -> Video | None:
    if keys is None:
        return None
    vram = keys.vram_mb * _KIB_OF_MIB if keys.vram_mb is not None else None
    return Video(keys.model, vram, keys.heads)


def _clock(keys: str | ClockKeys | None) -> Clock:
    if isinstance(keys, ClockKeys):
        if keys.timezone is not None:
            return Clock("timezone", timezone=keys.timezone)
        return Clock("variable", adjustment=keys.offset_seconds)
    return Clock(keys or "utc")


def _host_device(keys: HostDeviceKeys) -> HostDevice:
    if keys.pci is not None:
        domain, bus, rest = keys.pci.split(":")
        slot, function = rest.split(".")
        return HostDevice("pci", *(f"0x{each}" for each in (domain, bus, slot, function)))
    vendor, _, product = (keys.usb or "").partition(":")
    return HostDevice("usb", vendor=f"0x{vendor}", product=f"0x{product}")
