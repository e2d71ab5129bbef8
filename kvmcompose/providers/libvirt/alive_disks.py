"""Changes of disks of domains while they run. Runs in the threads of a libvirt connection."""

from __future__ import annotations

import string
import xml.etree.ElementTree as ET
from collections.abc import Collection
from typing import Any

import libvirt

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definition_record
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.alive import CONFIG, INACTIVE, LIVE, NO_PORT, refuse_off
from kvmcompose.providers.libvirt.connection import unless_so_already, words

#: The controller of disks on the bus scsi.
_SCSI = '<controller type="scsi" index="0" model="virtio-scsi"/>'


def attach_disk(domain: Any, *, disk: str, xml: str) -> None:
    """Plug in a further disk, unless it is there; with it the first controller of its bus."""
    refuse_off(domain, "attach a disk to")
    try:
        _attach(domain, disk, xml, 0, LIVE)
    except libvirt.libvirtError as error:
        if NO_PORT in words(error):
            raise DriverError(
                f"cannot attach the disk {disk} to the domain {domain.name()}: it has no free PCIe port",
                hint="it gets the disk when it restarts",
            ) from None
        raise
    with definition_record.own_change(domain):
        if domain.isPersistent():
            _attach(domain, disk, xml, INACTIVE, CONFIG)


def _attach(domain: Any, disk: str, xml: str, seen_as: int, affects: int) -> None:
    root = xmls.parse(domain.XMLDesc(seen_as), "domain")
    if disk in xmls.further_disks(root):
        return
    device = ET.fromstring(xml)  # noqa: S314 (rendered by us, and checked)
    target = device.find("target")
    if target is None:
        raise DriverError(f"the disk {disk} has no target")
    if target.get("bus") == "scsi" and root.find("devices/controller[@type='scsi']") is None:
        domain.attachDeviceFlags(_SCSI, affects)
    target.set("dev", _free(target.get("dev", ""), xmls.disk_targets(root)))
    domain.attachDeviceFlags(ET.tostring(device, encoding="unicode"), affects)


def _free(wanted: str, used: Collection[str]) -> str:
    """Return a target that nothing has: the place in a list is another one while the domain runs."""
    letters = [wanted, *(f"{wanted[:2]}{letter}" for letter in string.ascii_lowercase[1:])]
    return next((each for each in letters if each not in used), wanted)


def ask_to_detach_disk(domain: Any, *, disk: str) -> bool:
    """Ask the guest to let go of a disk; return whether it is gone."""
    if domain.isActive() and (device := _device(domain, disk, 0)) is not None:
        with unless_so_already(libvirt.VIR_ERR_DEVICE_MISSING, libvirt.VIR_ERR_OPERATION_FAILED):
            domain.detachDeviceFlags(device, LIVE)
        if domain.isActive() and _device(domain, disk, 0) is not None:
            return False
    with definition_record.own_change(domain):
        if domain.isPersistent() and (device := _device(domain, disk, INACTIVE)) is not None:
            domain.detachDeviceFlags(device, CONFIG)
    return True


def change_medium(domain: Any, *, disk: str, xml: str) -> None:
    """Take the medium out of a CD-ROM, and put in that of another definition of it."""
    refuse_off(domain, "change a medium of")
    device = xmls.further_disks(xmls.parse(domain.XMLDesc(), "domain")).get(disk)
    if device is None:
        raise DriverError(f"the domain {domain.name()} has no CD-ROM {disk}", hint="it was unplugged by hand")
    wanted = ET.fromstring(xml).find("source")  # noqa: S314 (rendered by us, and checked)
    for part in ("source", "backingStore"):
        for each in device.findall(part):
            device.remove(each)
    try:
        # libvirt changes nothing for the same path, which may lead to another file
        domain.updateDeviceFlags(ET.tostring(device, encoding="unicode"), LIVE)
        if wanted is not None:
            device.append(wanted)
            domain.updateDeviceFlags(ET.tostring(device, encoding="unicode"), LIVE)
    except libvirt.libvirtError as error:
        if "tray" in words(error) or "locked" in words(error):
            raise DriverError(
                f"cannot change the medium of the CD-ROM {disk} of the domain {domain.name()}: its guest has"
                " locked the tray",
                hint="unmount it in the guest",
            ) from error
        raise


def grow_disk(domain: Any, *, path: str, size: int) -> None:
    """Enlarge a disk, unless it is as large already."""
    refuse_off(domain, "enlarge a disk of")
    capacity, *_ = domain.blockInfo(path)
    if capacity < size:
        domain.blockResize(path, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


def _device(domain: Any, disk: str, flags: int) -> str | None:
    found = xmls.further_disks(xmls.parse(domain.XMLDesc(flags), "domain")).get(disk)
    return ET.tostring(found, encoding="unicode") if found is not None else None
