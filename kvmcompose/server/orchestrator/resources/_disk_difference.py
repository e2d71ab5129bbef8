"""What a difference in the disks of a domain means for its guest. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kvmcompose.core.resource import Reason, ReasonCode
from kvmcompose.server.orchestrator.resources._domain_spec import DomainDetail, DomainSpec
from kvmcompose.server.orchestrator.resources._guest_changes import changes_of

#: Keys of a disk that change alive, or that its place in the list stands for.
_NOT_RESTARTED_FOR = ("size_gigabytes", "expand_gigabytes", "name", "path")
#: The boot disk among disks with a size.
BOOT_DISK = ""


class DiskSize(msgspec.Struct, frozen=True, gc=False):
    """How large a disk is to be: a number of GiB, of the disk or more than its image, and the key of that."""

    gigabytes: int
    key: str

    @property
    def is_whole(self) -> bool:
        """Whether the number is the size of the disk, which has no image."""
        return self.key != "expand_gigabytes"


class DiskChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changes of the disks of a domain while it runs, by their names. ``edits``, ``repairs``: reasons.

    ``media``: CD-ROMs that get another medium, or none. ``grow``: new sizes.
    """

    edits: tuple[Reason, ...] = ()
    repairs: tuple[Reason, ...] = ()
    attach: tuple[str, ...] = ()
    detach: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    grow: Mapping[str, DiskSize] = {}


def of_disks(made: DomainSpec, spec: DomainSpec, detail: DomainDetail) -> DiskChange:
    """Return what changes of the disks while a guest runs."""
    before, after = made.further, spec.further
    edits: list[Reason] = []
    repairs: list[Reason] = []
    attach = [name for name, disk in after.items() if disk.is_pluggable and name not in detail.further]
    detach = [name for name, disk in before.items() if disk.is_pluggable and name not in after]
    for name in after:
        if name not in before:
            edits.append(Reason(ReasonCode.ADDED, f"disk {name}"))
        elif name in attach:
            repairs.append(Reason(ReasonCode.MISSING, f"its disk {name}"))
    edits += [Reason(ReasonCode.REMOVED, f"disk {name}") for name in before if name not in after]
    media = [
        name
        for name, disk in after.items()
        if name in before
        and disk.is_cdrom
        and (disk.medium, disk.file) != (before[name].medium, before[name].file)
    ]
    edits += [Reason(ReasonCode.CHANGED, f"medium of the CD-ROM {name}") for name in media]
    grow = dict(_grown(made, spec))
    edits += _growth(made, grow)
    edits += _shrunk(made, spec)
    return DiskChange(
        edits=tuple(edits),
        repairs=tuple(repairs),
        attach=tuple(attach),
        detach=tuple(detach),
        media=tuple(media),
        grow=grow,
    )


def restarts_of_disks(
    made: DomainSpec, spec: DomainSpec, detail: DomainDetail, *, same_frame: bool
) -> Iterator[Reason]:
    """Yield why a guest restarts for another definition of its disks."""
    before, after = made.further, spec.further
    for name, disk in after.items():
        if name not in before:
            if not (disk.is_pluggable and same_frame) and name not in detail.further:
                yield Reason(ReasonCode.ADDED, f"disk {name}")
        elif before[name].digest != disk.digest:
            yield from _of_entry(name, made, spec)
    for name, disk in before.items():
        if name not in after and not (disk.is_pluggable and same_frame):
            yield Reason(ReasonCode.REMOVED, f"disk {name}")


def restarts_to_grow(made: DomainSpec, spec: DomainSpec) -> list[Reason]:
    """Return the growth of disks that a guest restarts for: QEMU does not resize one that it only reads.

    One that guests share grows beside QEMU, and who reads it sees that from its next start.
    """
    entries = _entries(made)
    fixed = {name for name, each in entries.items() if each.get("readonly") and not each.get("shareable")}
    return list(_growth(made, {name: size for name, size in _grown(made, spec) if name in fixed}))


def unplugged(made: DomainSpec, spec: DomainSpec, detail: DomainDetail) -> list[str]:
    """Return the further disks that a guest has lost by other means, and gets again only when it starts."""
    return [
        name
        for name, disk in made.further.items()
        if not disk.is_pluggable and name in spec.further and name not in detail.further
    ]


def _of_entry(name: str, made: DomainSpec, spec: DomainSpec) -> Iterator[Reason]:
    before, after = _entries(made).get(name), _entries(spec).get(name)
    found = [
        msgspec.structs.replace(each, subject=f"{each.subject} of disk {name}")
        for each in changes_of(before, after)
        if each.subject not in _NOT_RESTARTED_FOR
    ]
    yield from found or [Reason(ReasonCode.CHANGED, f"disk {name}")]


def _grown(made: DomainSpec, spec: DomainSpec) -> Iterator[tuple[str, DiskSize]]:
    before = disk_sizes(made)
    for name, size in disk_sizes(spec).items():
        was = before.get(name)
        if was is not None and was.key == size.key and was.gigabytes < size.gigabytes:
            yield name, size


def _growth(made: DomainSpec, grown: Mapping[str, DiskSize]) -> Iterator[Reason]:
    before = disk_sizes(made)
    for name, size in grown.items():
        subject = f"{size.key} of disk {name}" if name != BOOT_DISK else size.key
        yield Reason(ReasonCode.CHANGED, subject, str(before[name].gigabytes), str(size.gigabytes))


def _shrunk(made: DomainSpec, spec: DomainSpec) -> Iterator[Reason]:
    """Yield disks that are to be smaller, which is refused: the build does so of all that are not shared."""
    before = disk_sizes(made)
    for name, size in disk_sizes(spec).items():
        was = before.get(name)
        if was is not None and was.is_whole and size.is_whole and was.gigabytes > size.gigabytes:
            now = str(size.gigabytes)
            yield Reason(ReasonCode.CHANGED, f"{size.key} of disk {name}", str(was.gigabytes), now)


def disk_sizes(spec: DomainSpec) -> dict[str, DiskSize]:
    """Return the sizes of the disks that have one in the YAML, by name; ``BOOT_DISK`` is the first."""
    found: dict[str, DiskSize] = {}
    kind = _section(spec).get("libvirt_type") or {}
    image = kind.get("cloud_image") or kind.get("existing_disk")
    empty = kind.get("iso_guest") or kind.get("network_guest") or {}
    if image is not None:
        if image.get("device_type") != "cdrom" and not image.get("create_deep_copy"):
            found[BOOT_DISK] = DiskSize(image.get("expand_gigabytes", 0), "expand_gigabytes")
    elif empty.get("expand_gigabytes"):
        found[BOOT_DISK] = DiskSize(empty["expand_gigabytes"], "expand_gigabytes of the empty disk")
    for name, entry in _entries(spec).items():
        if entry.get("size_gigabytes") is not None:
            found[name] = DiskSize(entry["size_gigabytes"], "size_gigabytes")
        elif entry.get("device") != "cdrom" and not entry.get("create_deep_copy"):
            found[name] = DiskSize(entry.get("expand_gigabytes", 0), "expand_gigabytes")
    return found


def _section(spec: DomainSpec) -> dict[str, Any]:
    sections = (each for each in spec.guest.values() if isinstance(each, dict) and "libvirt_type" in each)
    return next(sections, {})


def _entries(spec: DomainSpec) -> dict[str, dict[str, Any]]:
    entries = _section(spec).get("disks") or ()
    return {each.get("name") or f"disk{number}": each for number, each in enumerate(entries, start=1)}
