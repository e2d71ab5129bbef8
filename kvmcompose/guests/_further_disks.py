"""The keys ``boot_disk`` and ``disks`` of libvirt guests: the boot disk's bus, further disks and CD-ROMs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from kvmcompose.core.artefact import (
    Artefact,
    BaseImage,
    Blank,
    Content,
    DeepCopy,
    LinkTo,
    Overlay,
    Policy,
    shared_disk_path,
)
from kvmcompose.core.artefact import (
    Literal as Bytes,
)
from kvmcompose.core.deployable import SharedDisk
from kvmcompose.core.errors import Complaint
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState
from kvmcompose.guests import _files
from kvmcompose.render.disks import BootDisk, DiskDevice
from kvmcompose.render.hardware import Hardware, has_root_ports

_Path = tuple[str | int, ...]
_Bus = Literal["virtio", "scsi", "sata", "usb", "ide"]
_Cache = Literal["none", "writethrough", "writeback", "directsync", "unsafe"]

#: What says where the content of a disk comes from.
_SOURCES = ("size_gigabytes", "path", "image")
#: Keys that a CD-ROM cannot have.
_OF_DISKS = (
    "size_gigabytes", "image", "expand_gigabytes", "create_deep_copy",
    "format", "cache", "discard", "readonly", "shareable",
)  # fmt: skip
#: Targets of libvirt by bus: their beginning, and the first letter that is free in every guest.
_TARGETS = {"virtio": ("vd", 2), "scsi": ("sd", 1), "sata": ("sd", 1), "usb": ("sd", 1), "ide": ("hd", 0)}
#: Two channels with two devices each.
_MOST_IDE = 4
#: libvirt counts places on both buses by the letters of targets. Behind these, it adds a controller: another
#: AHCI behind a bridge, or the LSI 53C895A, for which Linux of today has no driver.
_PLACES = {"scsi": 7, "sata": 6}


class FurtherDisk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A disk or CD-ROM beside the boot disk. Sizes are in GiB. ``boot`` is its place in the boot order.

    A ``shareable`` disk belongs to the testbed: all guests with such an entry of its name have the same one.
    """

    name: str | None = None
    size_gigabytes: int | None = None
    path: str | None = None
    image: str | None = None
    expand_gigabytes: int = 0
    create_deep_copy: bool = False
    format: Literal["raw", "qcow2"] | None = None
    device: Literal["disk", "cdrom"] = "disk"
    bus: _Bus | None = None
    cache: _Cache | None = None
    discard: Literal["unmap", "ignore"] | None = None
    readonly: bool = False
    shareable: bool = False
    serial: str | None = None
    boot: int | None = None

    @property
    def content(self) -> Content | None:
        """How its artefact is made; None for a CD-ROM without a medium."""
        if self.device == "cdrom":
            return LinkTo(BaseImage(path=self.path, format="raw")) if self.path is not None else None
        if self.shareable:
            return Bytes(b"")  # it gets its size where its guests start
        if self.size_gigabytes is not None:
            return Blank(self.size_gigabytes)
        image = BaseImage(name=self.image, path=self.path, format=self.format)
        if self.create_deep_copy:
            return DeepCopy(image)
        return Overlay(image=image, expand_gigabytes=self.expand_gigabytes)


def disk_names(entries: Sequence[FurtherDisk]) -> list[str]:
    """Return the names of further disks: by position where they have none, counted from 1."""
    return [each.name or f"disk{number}" for number, each in enumerate(entries, start=1)]


def _artefact_path(identity: str, name: str, entry: FurtherDisk) -> str:
    # a dot is in no name of a guest or a disk, so that no two of them have one path
    if entry.shareable:
        return shared_disk_path(name)
    return f"artefacts/{identity}.{name}{'-media.iso' if entry.device == 'cdrom' else '.qcow2'}"


def entries_of(guest: GuestState, entries: Sequence[FurtherDisk]) -> Iterator[tuple[str, FurtherDisk]]:
    """Yield the further disks that a guest has, by name.

    A golden image has none that is shareable: it is set up on the main host, wherever its clones are, before
    they start, and again when it changes.
    """
    for name, entry in zip(disk_names(entries), entries, strict=True):
        if not (entry.shareable and guest.is_golden_image):
            yield name, entry


def shared_disks(guest: GuestState, entries: Sequence[FurtherDisk]) -> dict[str, SharedDisk]:
    """Return the disks that a guest shares, by their paths."""
    return {
        shared_disk_path(name): SharedDisk(entry.size_gigabytes or 0, entry.readonly)
        for name, entry in entries_of(guest, entries)
        if entry.shareable
    }


def further_artefacts(guest: GuestState, entries: Sequence[FurtherDisk]) -> Iterator[Artefact]:
    """Yield the artefacts of a guest's further disks. Those of a clone lie on those of its golden image."""
    golden = guest.extra_info.golden_identity
    for name, entry in entries_of(guest, entries):
        content = entry.content
        if content is None:
            continue
        path = _artefact_path(guest.identity, name, entry)
        if entry.shareable:
            yield Artefact(
                task=f"shared-disk:{name}",
                path=path,
                policy=Policy.MUTABLE,
                content=content,
                summary=f"disk {name}, which guests share",
                mode=0o600,
            )
            continue
        if entry.device == "cdrom":
            yield Artefact(
                task=f"media:{guest.name}:{name}",
                path=path,
                policy=Policy.LINK,
                content=content,
                summary=f"medium of the CD-ROM {name} of {guest.name}",
                guest=guest.name,
            )
            continue
        below = _artefact_path(golden, name, entry) if golden is not None else None
        yield Artefact(
            task=f"{'disk' if below is None else 'clone'}:{guest.name}:{name}",
            path=path,
            policy=Policy.MUTABLE,
            content=content if below is None else Overlay(on=below),
            summary=f"disk {name} of {guest.name}",
            guest=guest.name,
            after=() if below is None else (below,),
            mode=0o600,
        )


class BootDiskKeys(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the guest sees its boot disk."""

    bus: _Bus = "virtio"
    cache: _Cache | None = None
    discard: Literal["unmap", "ignore"] = "unmap"
    serial: str | None = None

    def device(self, *, has_media: bool) -> BootDisk:
        """Return it as the domain has it: the first disk of its bus, as libvirt boots from the first one."""
        prefix, _ = _TARGETS[self.bus]
        return BootDisk(
            target=f"{prefix}b" if prefix == "sd" and has_media else f"{prefix}a",
            bus=self.bus,
            cache=self.cache,
            discard=self.discard,
            serial=self.serial,
        )


def disk_devices(
    guest: GuestState, entries: Sequence[FurtherDisk], cdrom: str, boot: BootDisk
) -> tuple[DiskDevice, ...]:
    """Return further disks as the domain has them. ``cdrom`` is the usual bus of a CD-ROM."""
    used = _used_targets(boot)
    found = []
    for name, entry in entries_of(guest, entries):
        is_cdrom = entry.device == "cdrom"
        bus = entry.bus or (cdrom if is_cdrom else "virtio")
        prefix, first = _TARGETS[bus]
        found.append(
            DiskDevice(
                name=name,
                device=entry.device,
                file=_artefact_path(guest.identity, name, entry) if entry.content is not None else None,
                format="raw" if is_cdrom or entry.shareable else "qcow2",
                target=f"{prefix}{_letters(first + used[prefix])}",
                bus=bus,
                cache=entry.cache,
                discard=None if is_cdrom else entry.discard or "unmap",
                readonly=is_cdrom or entry.readonly,
                shareable=entry.shareable,
                serial=entry.serial or (None if is_cdrom else name),
                boot=entry.boot,
            )
        )
        used[prefix] += 1
    return tuple(found)


def _used_targets(boot: BootDisk) -> Counter[str]:
    """Return how many targets, beyond those that are always left out, the boot disk takes by their prefix."""
    return Counter([boot.target[:2]] if boot.target in ("sdb", "hda") else [])


def own_cdroms(
    files: Sequence[str], entries: Sequence[FurtherDisk], cdrom: str, boot: BootDisk
) -> tuple[DiskDevice, ...]:
    """Return CD-ROMs with images that are made for a guest, behind its further disks."""
    prefix, first = _TARGETS[cdrom]
    used = _used_targets(boot)[prefix] + sum(
        _TARGETS[each.bus or (cdrom if each.device == "cdrom" else "virtio")][0] == prefix for each in entries
    )
    return tuple(
        DiskDevice(
            name=f"own-{number}",
            device="cdrom",
            file=file,
            format="raw",
            target=f"{prefix}{_letters(first + used + number)}",
            bus=cdrom,
            cache=None,
            discard=None,
            readonly=True,
            serial=None,
            boot=None,
        )
        for number, file in enumerate(files)
    )


def _letters(number: int) -> str:
    """Return the end of the name of a disk, as Linux counts them: a to z, aa to az."""
    start, rest = divmod(number, 26)
    return (chr(ord("a") + start - 1) if start else "") + chr(ord("a") + rest)


def check_further_disks(
    entries: Sequence[FurtherDisk],
    section: str,
    files: ProjectFiles,
    *,
    boot: BootDiskKeys | None,
    media: Sequence[str | None],
    cdrom: str,
    hardware: Hardware,
    scaled: bool,
) -> Iterator[Complaint]:
    """Yield the problems of further disks of a machine with this hardware and boot disk.

    ``media``: that of the boot CD-ROM, or None, and those of the guest's own, on the bus ``cdrom``.
    """
    at = (section, "disks")
    for index, entry in enumerate(entries):
        here = (*at, index)
        wrong = [*_of_source(entry, here), *_of_device(entry, here, hardware)]
        yield from wrong or _of_files(entry, here, files)
        if scaled and entry.create_deep_copy:
            yield Complaint(
                code="cannot-scale",
                path=(*here, "create_deep_copy"),
                message="a full copy cannot be emptied when the golden image is set up again",
                hint="leave it out: clones and golden image have overlays on the image, which never changes",
            )
    yield from _of_doubles(entries, at, boot)
    ide = [index for index, entry in enumerate(entries) if entry.bus == "ide"]
    most = _MOST_IDE - (boot is not None and boot.bus == "ide")
    if len(ide) > most:
        yield Complaint(
            code="hardware-conflict",
            path=(*at, ide[most], "bus"),
            message=f"more than {_MOST_IDE} devices on the bus ide",
            wanted="virtio, scsi, sata or usb",
        )
    yield from _of_room(entries, at, boot, media, cdrom)


def _of_room(
    entries: Sequence[FurtherDisk],
    at: _Path,
    boot: BootDiskKeys | None,
    media: Sequence[str | None],
    cdrom: str,
) -> Iterator[Complaint]:
    """Yield the first device on scsi or sata that the controller of its bus has no place for."""
    boot_disk = (boot or BootDiskKeys()).device(has_media=media[0] is not None)
    buses = [each.bus or (cdrom if each.device == "cdrom" else "virtio") for each in entries]
    prefix, first = _TARGETS["scsi"]
    place = first + _used_targets(boot_disk)[prefix]
    for index, bus in enumerate([*buses, *[cdrom] * (len(media) - 1)]):
        if _TARGETS[bus][0] != prefix:
            continue
        if place >= _PLACES.get(bus, place + 1):
            is_entry = index < len(entries)
            yield Complaint(
                code="hardware-conflict",
                path=(*at, index) if is_entry else at,
                message=f"no place on the bus {bus}"
                + ("" if is_entry else " for the CD-ROMs that the installer gets")
                + ": disks and CD-ROMs on scsi, sata and usb have its places",
                wanted=f"at most {_PLACES[bus] - first} of them on these buses, the others on virtio",
                at_key=not is_entry,
            )
            return
        place += 1


def _of_source(entry: FurtherDisk, at: _Path) -> Iterator[Complaint]:
    given = [key for key in _SOURCES if getattr(entry, key) is not None]
    if entry.device == "cdrom":
        for key in _OF_DISKS:
            if getattr(entry, key) not in (None, False, 0):
                yield Complaint(
                    code="hardware-conflict",
                    path=(*at, key),
                    message=f"a CD-ROM has no {key}",
                    hint="its medium is an ISO image: path; without one it is empty",
                    at_key=True,
                )
        return
    if len(given) != 1:
        yield Complaint(
            code="too-many-kinds" if given else "no-kind",
            path=(*at, given[1]) if given else at,
            message=f"a disk with {' and '.join(given)}"
            if given
            else "a disk of which nothing says what it is",
            wanted="exactly one of size_gigabytes, path and image",
            at_key=bool(given),
        )
        return
    (source,) = given
    if entry.shareable:
        yield from _of_shareable(entry, source, at)
    for key, sources in (
        ("expand_gigabytes", ("path", "image")),
        ("create_deep_copy", ("path",)),
        ("format", ("path",)),
    ):
        if getattr(entry, key) and source not in sources:
            hint = "a larger size_gigabytes grows it" if key == "expand_gigabytes" and source else None
            yield Complaint(
                code="hardware-conflict",
                path=(*at, key),
                message=f"{key} does not go with {source}",
                hint=hint,
                at_key=True,
            )
    if entry.create_deep_copy and entry.expand_gigabytes:
        yield Complaint(
            code="hardware-conflict",
            path=(*at, "expand_gigabytes"),
            message="expand_gigabytes does not go with create_deep_copy: a copy is as large as its image",
            at_key=True,
        )


def _of_shareable(entry: FurtherDisk, source: str, at: _Path) -> Iterator[Complaint]:
    if entry.name is None:
        yield Complaint(
            code="hardware-conflict",
            path=(*at, "shareable"),
            message="a shareable disk without a name",
            wanted="a name: guests with a shareable disk of the same name have the same disk",
            at_key=True,
        )
    if source != "size_gigabytes":
        yield Complaint(
            code="hardware-conflict",
            path=(*at, source),
            message=f"shareable does not go with {source}: a disk that guests share begins empty",
            wanted="size_gigabytes",
            hint="one guest may have the image as another disk, and copy it to this one",
            at_key=True,
        )


def _of_device(entry: FurtherDisk, at: _Path, hardware: Hardware) -> Iterator[Complaint]:
    if entry.boot is not None and hardware.boot:
        yield Complaint(
            code="hardware-conflict",
            path=(*at, "boot"),
            message="the machine boots from kinds of devices: its key boot, or network_guest",
            hint="leave one of the two out: libvirt has no boot order of both",
            at_key=True,
        )
    if entry.bus is not None:
        yield from _of_bus(entry.bus, at, hardware, cdrom=entry.device == "cdrom", readonly=entry.readonly)


def check_boot_disk(
    keys: BootDiskKeys, section: str, hardware: Hardware, *, is_there: bool, readonly: bool
) -> Iterator[Complaint]:
    """Yield the problems of ``boot_disk`` of a machine with this hardware."""
    at = (section, "boot_disk")
    if not is_there:
        yield Complaint(
            code="hardware-conflict", path=at, message="the machine has no boot disk", at_key=True
        )
        return
    yield from _of_bus(keys.bus, at, hardware, cdrom=False, readonly=readonly)


def _of_bus(bus: _Bus, at: _Path, hardware: Hardware, *, cdrom: bool, readonly: bool) -> Iterator[Complaint]:
    machine = hardware.machine
    allowed = ["scsi"] if machine.startswith("virt") else ["scsi", "sata"]
    if not has_root_ports(machine):
        allowed.append("ide")
    if not cdrom:
        allowed = ["virtio", *allowed, *(["usb"] if hardware.usb != "none" else [])]
    if bus not in allowed:
        what = "a CD-ROM" if cdrom else "a disk"
        yield Complaint(
            code="hardware-conflict",
            path=(*at, "bus"),
            message=f"the bus of {what} of a machine of the type {machine}",
            found=bus,
            wanted=f"one of {', '.join(allowed)}",
        )
    elif bus in ("ide", "sata") and readonly:
        yield Complaint(
            code="hardware-conflict",
            path=(*at, "readonly"),
            message=f"QEMU has no read-only disks on the bus {bus}",
            wanted="bus: virtio, scsi or usb",
        )


def _of_files(entry: FurtherDisk, at: _Path, files: ProjectFiles) -> Iterator[Complaint]:
    if entry.image is not None:
        yield from _files.catalogue_image(files, (*at, "image"), entry.image)
    if entry.path is None:
        return
    if entry.device == "cdrom":
        yield from _files.image(files, (*at, "path"), entry.path, "raw")
        return
    at = (*at, "path")
    is_raw = entry.format == "raw"
    yield from _files.image(files, at, entry.path, entry.format, is_said=is_raw, format_key="format")


def _of_doubles(entries: Sequence[FurtherDisk], at: _Path, boot: BootDiskKeys | None) -> Iterator[Complaint]:
    """Yield names, serial numbers and places in the boot order that two disks have."""
    names = disk_names(entries)
    serials = [
        each.serial or (name if each.device == "disk" else None)
        for name, each in zip(names, entries, strict=True)
    ]
    if boot is not None and boot.serial is not None and boot.serial in serials:
        index = serials.index(boot.serial)
        yield Complaint(
            code="hardware-conflict",
            path=(*at, index, "serial") if entries[index].serial is not None else (*at, index),
            message=f"the serial {boot.serial} is that of boot_disk as well",
            hint="the serial number of a disk without the key is its name",
        )
    for key, values in (("name", names), ("serial", serials), ("boot", [each.boot for each in entries])):
        seen: dict[str | int, int] = {}
        for index, value in enumerate(values):
            if value is None:
                continue
            if value in seen and not (key == "serial" and names[index] == names[seen[value]]):
                yield Complaint(
                    code="doubled-disk" if key == "name" else "hardware-conflict",
                    path=(*at, index, key) if getattr(entries[index], key) is not None else (*at, index),
                    message=f"the {key} {value} is that of disks[{seen[value]}] as well",
                    hint="a disk without a name is called disk1, disk2 and so on by its place"
                    if key == "name"
                    else None,
                )
            seen.setdefault(value, index)
