"""What a guest's domain is made from, and what a difference in that means for the one that exists. Pure."""

from __future__ import annotations

import hashlib
import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kvmcompose.core.nic import Bandwidth, Vlan
from kvmcompose.core.state import Interface
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.definitions import parse
from kvmcompose.render.disks import ALIAS_PREFIX
from kvmcompose.render.domain import DOMAIN_FORMAT

#: States of libvirt in which nothing of a guest runs.
OFF = ("shut off", "crashed", "no state")
#: The state of libvirt of a guest that put itself to sleep.
ASLEEP = "pmsuspended"
#: Frames by the digest of their definition: most of them are asked for again and again.
_frames: dict[str, Frame] = {}
_guard = threading.Lock()
_MOST_FRAMES = 50_000


class FurtherDiskSpec(msgspec.Struct, frozen=True, gc=False):
    """What a further disk is made from: a digest of its definition, without its target and medium.

    ``medium`` of a CD-ROM is a digest of its content, "" for none.
    """

    digest: str
    bus: str
    is_cdrom: bool = False
    file: str = ""
    medium: str = ""

    @property
    def is_pluggable(self) -> bool:
        """Whether QEMU plugs it in and out of a guest that runs."""
        return self.bus in ("virtio", "scsi", "usb")


class DomainSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a domain is made from. It is stored in the metadata of the domain.

    ``version`` is that of the XML, 0 for what version 0.1 made.
    ``guest`` is the guest's part of ``state.json``; there are digests in place of the values of an
    environment. ``xml``, ``seed`` and ``media`` are digests of its files. ``frame`` is that of the definition
    without what may change while the guest runs, ``disks`` are the targets of the disks,
    ``further`` the further disks by name. ``waiting``: some of
    what was edited waits for the next start of the guest.
    """

    version: int = DOMAIN_FORMAT
    guest: dict[str, Any]
    xml: str
    frame: str = ""
    disks: tuple[str, ...] = ()
    further: dict[str, FurtherDiskSpec] = {}
    seed: str | None = None
    media: str | None = None
    waiting: bool = False


class DomainWanted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A domain as it is wanted. ``state`` is ``running``, or what the user asked for since."""

    made: DomainSpec
    state: str = "running"


class DomainDetail(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A domain as it is now. ``reason`` says why it is in its state.

    ``taps`` are the tap devices of its NICs by MAC address, ``bridges`` the bridges that these are ports of.
    ``interface_ids`` are the IDs that libvirt gave the ports, by MAC address, ``nameless`` the taps whose
    port has another, or none. ``answering``: taps at which the host answers ARP requests.
    ``links`` and ``bandwidths`` are those of the NICs by MAC address, ``vlans`` those of the ports by tap; of
    each what is not usual.
    ``shaped`` and ``policed``: taps whose ports limit what the guest receives, or sends.
    ``disks`` are the targets of its disks, ``further`` the names of its further ones. ``edited``: its
    definition was changed by other means than ours. ``stamped`` is whether it bears what it was made from.
    ``agent``: a guest agent is connected.
    """

    name: str
    reason: str | None = None
    taps: Mapping[str, str] = {}
    bridges: Mapping[str, str] = {}
    uuid: str = ""
    interface_ids: Mapping[str, str] = {}
    nameless: tuple[str, ...] = ()
    answering: tuple[str, ...] = ()
    links: Mapping[str, str] = {}
    bandwidths: Mapping[str, Bandwidth] = {}
    vlans: Mapping[str, Vlan] = {}
    shaped: tuple[str, ...] = ()
    policed: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    further: frozenset[str] = frozenset()
    edited: bool = False
    stamped: bool = True
    agent: bool = False


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What of a definition cannot change while its guest runs: a digest, and the targets of the disks.

    ``further`` are the further disks by name, which are not part of the digest.
    """

    digest: str
    disks: tuple[str, ...] = ()
    further: Mapping[str, FurtherDiskSpec] = {}


def frame_of(xml: str) -> Frame:
    """Return the frame of a definition: it without interfaces, ports, further disks, current memory and CPUs.

    It has no digest if the text is no definition. The user may have edited it, so it is parsed: patterns for
    what lies between tags take a time that grows with the square of a text that closes none.
    """
    try:
        root = ET.fromstring(xml)  # noqa: S314 (expat bounds how entities grow)
        devices = root.find("devices")
        further = _take_further(devices) if devices is not None else {}
        disks = tuple(each.get("dev", "") for each in root.iterfind("devices/disk/target"))
        for parent, path in (
            (root, "currentMemory"),
            (devices, "interface"),
            (devices, "controller[@type='pci']"),
            (devices, "controller[@type='scsi'][@index='0']"),
        ):
            if parent is not None:
                gone = set(parent.findall(path))
                parent[:] = [each for each in parent if each not in gone]
        for each in root.findall("vcpu"):
            each.attrib.pop("current", None)
        return Frame(hashlib.sha256(ET.tostring(root)).hexdigest(), disks, further)
    except (ET.ParseError, RecursionError):
        return Frame("")


def further_name(disk: ET.Element) -> str | None:
    """Return the name of a further disk, None for another disk."""
    alias = disk.find("alias")
    name = alias.get("name", "") if alias is not None else ""
    return name.removeprefix(ALIAS_PREFIX) if name.startswith(ALIAS_PREFIX) else None


def _take_further(devices: ET.Element) -> dict[str, FurtherDiskSpec]:
    """Remove the further disks from the devices of a definition, and return them by name."""
    found = {}
    for disk in devices.findall("disk"):
        name = further_name(disk)
        if name is None:
            continue
        devices.remove(disk)
        target, source = disk.find("target"), disk.find("source")
        is_cdrom = disk.get("device") == "cdrom"
        file = source.get("file", "") if source is not None else ""
        if target is not None:
            target.attrib.pop("dev", None)  # it follows from the place in the list
        if is_cdrom and source is not None:
            disk.remove(source)
        found[name] = FurtherDiskSpec(
            hashlib.sha256(ET.tostring(disk).strip()).hexdigest(),
            target.get("bus", "") if target is not None else "",
            is_cdrom,
            file,
        )
    return found


def disk_xml(xml: str, name: str) -> str:
    """Return the <disk> of a further disk in a definition. Raises DriverError without one."""
    for each in parse(xml, "domain").iterfind("devices/disk"):
        if further_name(each) == name:
            return ET.tostring(each, encoding="unicode")
    raise DriverError(f"the definition has no disk {name}", hint="was its XML edited?")


def frame(digest: str, read: Callable[[], str]) -> Frame:
    """Return the frame of the definition with this digest, which is read only if it is not known yet."""
    with _guard:
        known = _frames.get(digest)
    if known is None:
        known = frame_of(read())
        with _guard:
            _frames[digest] = known
            while len(_frames) > _MOST_FRAMES:
                del _frames[next(iter(_frames))]
    return known


def nic_xml(xml: str, mac: str) -> str:
    """Return the <interface> with a MAC address of a definition. Raises DriverError without one."""
    root = parse(xml, "domain")
    for each in root.findall("devices/interface"):
        address = each.find("mac")
        if address is not None and (address.get("address") or "").lower() == mac:
            return ET.tostring(each, encoding="unicode")
    raise DriverError(f"the definition has no interface {mac}", hint="was its XML edited?")


def encode(spec: DomainSpec) -> str:
    """Return what a domain is made from, for its metadata: ASCII, as XML forbids some other characters."""
    return json.dumps(msgspec.to_builtins(spec), separators=(",", ":"))


def decode(made: str) -> DomainSpec | None:
    """Return what a domain was made from, by its metadata; None for what cannot be read.

    It may have been edited: ``virsh edit`` shows it.
    """
    try:
        spec = msgspec.json.decode(made, type=DomainSpec) if made else None
        if spec is not None:
            msgspec.convert(spec.guest.get("interfaces") or (), tuple[Interface, ...])
    except (msgspec.MsgspecError, RecursionError):
        return None
    return spec
