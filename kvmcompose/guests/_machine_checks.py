"""Check the keys of a guest's hardware: what libvirt or QEMU would refuse on any host."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvmcompose.core.errors import Complaint
from kvmcompose.guests._firmware import USUAL_ARCH, check_firmware
from kvmcompose.guests._machine import (
    PAGE_SIZES,
    CpuTopologyKeys,
    MachineKeys,
    VideoKeys,
    video_of,
    watchdog_of,
)
from kvmcompose.render.hardware import has_root_ports

_Path = tuple[str | int, ...]

#: Models of video devices with several screens, and those with memory of a size.
_WITH_HEADS = ("qxl", "virtio")
_WITH_VRAM = ("vga", "cirrus", "vmvga", "qxl", "bochs")
#: In MiB.
_BOCHS_VRAM = (4, 8, 16, 32, 64, 128, 256)
_ARM_VIDEO = ("virtio", "ramfb", "bochs", "none")
#: Models of the one architecture that the other does not have, by what their names start with.
_MODELS = {
    "aarch64": re.compile(r"cortex-|neoverse-|a64fx|falkor|thunderx|kunpeng|ft-2000|tengyun", re.IGNORECASE),
    "x86_64": re.compile(
        r"(conroe|penryn|nehalem|westmere|sandybridge|ivybridge|haswell|broadwell|skylake|cascadelake|cooperlake"
        r"|icelake|snowridge|denverton|sapphirerapids|graniterapids|opteron|epyc|dhyana|(qemu|kvm)(32|64)$)",
        re.IGNORECASE,
    ),
}
#: No guest has more processors, so that a range of them is cheap to write out.
_MOST_CPUS = 512


def check_machine(
    keys: MachineKeys, section: str, *, cpus: int, memory_mb: int, scaled: bool
) -> Iterator[Complaint]:
    """Yield combinations of keys in the ``section`` of a machine that cannot be.

    ``cpus`` and ``memory_mb`` (MiB) are the most that the guest can have.
    """
    at = (section,)
    yield from check_firmware(section, keys.firmware, keys.arch)
    yield from _check_type(keys, at)
    yield from _check_cpu(keys, at, cpus)
    yield from _check_numa(keys, at, cpus, memory_mb)
    yield from _check_pages(keys, at, memory_mb)
    yield from _check_screen(keys, at)
    yield from _check_usb(keys, at)
    yield from _check_host_devices(keys, at, scaled=scaled)


def check_boot(
    keys: MachineKeys, section: str, *, disk: bool, network: bool, cdrom: bool
) -> Iterator[Complaint]:
    """Yield devices of ``boot`` that the guest does not have."""
    there = {"disk": disk, "network": network, "cdrom": cdrom}
    missing = {"disk": "no disk", "network": "no interface", "cdrom": "no CD-ROM"}
    for index, device in enumerate(keys.boot):
        if not there[device]:
            wanted = ", ".join(name for name in there if there[name])
            yield _conflict((section, "boot", index), f"the guest has {missing[device]}", device, wanted)


def _conflict(
    path: _Path, message: str, found: str | None = None, wanted: str | None = None, hint: str | None = None
) -> Complaint:
    return Complaint(
        code="hardware-conflict", path=path, message=message, found=found, wanted=wanted, hint=hint
    )


def _check_type(keys: MachineKeys, at: _Path) -> Iterator[Complaint]:
    is_arm = keys.arch == "aarch64"
    if keys.machine is not None and keys.machine.startswith("virt") is not is_arm:
        yield _conflict(
            (*at, "machine"),
            "a machine type of another architecture",
            keys.machine,
            "virt, or a version of it" if is_arm else "q35, pc, or a version of them",
        )
    if keys.firmware == "uefi-secure" and keys.machine is not None and not has_root_ports(keys.machine):
        yield _conflict(
            (*at, "machine"),
            "secure boot needs System Management Mode with q35",
            keys.machine,
            "q35, or a version of it",
        )
    if is_arm:
        yield from _check_arm(keys, at)


def _check_arm(keys: MachineKeys, at: _Path) -> Iterator[Complaint]:
    """Yield what only a PC has."""
    video, watchdog = video_of(keys), watchdog_of(keys)
    mode = keys.cpu.mode if keys.cpu is not None else None
    model = video.model if video is not None else None
    timer = watchdog.model if watchdog is not None else None
    for key, found, lacking in (
        ("hyperv", "true", bool(keys.hyperv)),
        ("cpu", mode, mode == "host-model"),
        ("video", model, model is not None and model not in _ARM_VIDEO),
        ("sound", keys.sound, keys.sound == "sb16"),
        ("watchdog", timer, timer == "ib700"),
    ):
        if lacking:
            yield _conflict((*at, key), "an aarch64 guest cannot have this", found)


def _check_cpu(keys: MachineKeys, at: _Path, cpus: int) -> Iterator[Complaint]:
    cpu = keys.cpu
    if cpu is None:
        return
    if cpu.mode == "custom" and cpu.model is None:
        yield _conflict(
            (*at, "cpu", "mode"), "custom, without a model", hint="add 'model': virsh cpu-models x86_64"
        )
    if cpu.model is not None and cpu.mode not in (None, "custom"):
        yield _conflict(
            (*at, "cpu", "model"),
            f"a model, with the mode {cpu.mode}",
            cpu.model,
            hint="leave 'mode' out: with a model it is custom",
        )
    arch = keys.arch or USUAL_ARCH
    other = next(
        (name for name, models in _MODELS.items() if name != arch and models.match(cpu.model or "")), None
    )
    if other is not None:
        yield _conflict(
            (*at, "cpu", "model"),
            f"a model of {other}, and the guest is {arch}",
            cpu.model,
            hint=f"virsh domcapabilities --arch {arch} lists those that a host has",
        )
    if cpu.topology is not None and (product := _product(cpu.topology)) != cpus:
        yield _conflict(
            (*at, "cpu", "topology"),
            "not as many processors as the guest can have",
            f"{product}",
            f"{cpus}, as cpus or max_cpus says",
            "sockets x dies x cores x threads is the number of all processors; each is 1 unless it is given",
        )


def _product(topology: CpuTopologyKeys) -> int:
    return topology.sockets * topology.dies * topology.cores * topology.threads


def _check_numa(keys: MachineKeys, at: _Path, cpus: int, memory_mb: int) -> Iterator[Complaint]:
    if not keys.numa:
        return
    seen: set[int] = set()
    for index, cell in enumerate(keys.numa):
        place = (*at, "numa", index, "cpus")
        numbers: set[int] = set()
        twice = None
        for number in _numbers(cell.cpus):
            twice = number if number in seen or number in numbers else twice
            numbers.add(number)
        seen |= numbers
        if not numbers:
            yield _conflict(place, "no range of processors", cell.cpus, "as in 0-3,8")
        elif max(numbers) >= cpus:
            most = f"at most {cpus - 1}"
            yield _conflict(place, "a processor that the guest does not have", cell.cpus, most)
        elif twice is not None:
            yield _conflict(place, f"processor {twice} is in a node already", cell.cpus)
        else:
            continue
        return
    if missing := set(range(cpus)) - seen:
        yield _conflict((*at, "numa"), "a processor in no node", f"{min(missing)}", "each in one")
    total = sum(cell.memory_mb for cell in keys.numa)
    if total != memory_mb:
        yield _conflict(
            (*at, "numa"),
            "the nodes have another amount of memory than the guest",
            f"{total} MiB",
            f"{memory_mb} MiB, as memory_mb or max_memory_mb says",
        )


def _numbers(text: str) -> Iterator[int]:
    """Yield the processors of a text like ``0-3,8``; nothing of a range that ends before it begins."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), min(int(last or first), _MOST_CPUS) + 1)


def _check_pages(keys: MachineKeys, at: _Path, memory_mb: int) -> Iterator[Complaint]:
    if keys.hugepages is None:
        return
    page = PAGE_SIZES[keys.hugepages] // 1024
    sizes = [cell.memory_mb for cell in keys.numa] or [memory_mb]
    if wrong := next((each for each in sizes if each % page), 0):
        yield _conflict(
            (*at, "hugepages"),
            f"{wrong} MiB of memory are no whole number of pages",
            keys.hugepages,
            f"memory, and that of NUMA nodes, as a multiple of {page} MiB",
        )


def _check_screen(keys: MachineKeys, at: _Path) -> Iterator[Complaint]:
    video = video_of(keys)
    if video is None:
        return
    place = (*at, "video")
    if video.model == "none" and keys.graphics in ("vnc", "spice"):
        yield _conflict(
            place, f"graphics {keys.graphics} shows a video device, and there is none", video.model
        )
    yield from _check_video(video, place)


def _check_video(video: VideoKeys, at: _Path) -> Iterator[Complaint]:
    if video.vram_mb is not None and video.model not in _WITH_VRAM:
        found, wanted = video.model, ", ".join(_WITH_VRAM)
        yield _conflict((*at, "vram_mb"), "the memory of this model has no size", found, f"one of {wanted}")
    if video.model == "bochs" and video.vram_mb not in (None, *_BOCHS_VRAM):
        found, wanted = f"{video.vram_mb}", f"one of {', '.join(map(str, _BOCHS_VRAM))}"
        yield _conflict((*at, "vram_mb"), "bochs cannot have this amount of memory", found, wanted)
    if (video.heads or 1) > 1 and video.model not in _WITH_HEADS:
        wanted = " or ".join(_WITH_HEADS)
        yield _conflict((*at, "heads"), "this model has one screen only", video.model, wanted)


def _check_usb(keys: MachineKeys, at: _Path) -> Iterator[Complaint]:
    if keys.usb != "none":
        return
    if keys.sound == "usb":
        yield _conflict((*at, "sound"), "a USB device, and usb is none", keys.sound)
    for index, device in enumerate(keys.host_devices):
        if device.usb is not None:
            yield _conflict((*at, "host_devices", index, "usb"), "a USB device, and usb is none", device.usb)


def _check_host_devices(keys: MachineKeys, at: _Path, *, scaled: bool) -> Iterator[Complaint]:
    place = (*at, "host_devices")
    if keys.host_devices and scaled:
        yield Complaint(
            code="cannot-scale",
            path=place,
            message="a device of the host is one guest's: clones cannot share it",
            at_key=True,
        )
    seen = set()
    for index, device in enumerate(keys.host_devices):
        if device in seen:
            yield _conflict((*place, index), "the same device again", device.pci or device.usb)
        seen.add(device)
