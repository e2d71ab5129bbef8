"""The XML of snapshots, as libvirt takes and returns it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator

import msgspec

from kvmcompose.providers.libvirt.definitions import Disk, disks_in, name_in, parse, set_uuid


def snapshot_disks(xml: str) -> list[Disk]:
    """Return the disks that hold a snapshot, in the definition that the domain had then."""
    root = parse(xml, "domainsnapshot")
    inside = {each.get("name") for each in root.iterfind("disks/disk") if each.get("snapshot") == "internal"}
    return [disk for disk in disks_at_snapshot(xml) if disk.target in inside]


def disks_at_snapshot(xml: str) -> list[Disk]:
    """Return all disks of the definition that the domain had at a snapshot, CD-ROMs included.

    libvirt acts on these, even if the domain has changed since.
    """
    domain = parse(xml, "domainsnapshot").find("domain")
    return [] if domain is None else list(disks_in(domain))


def snapshot_xml(name: str, domain_disks: Iterator[Disk]) -> str:
    """Return a request for a snapshot: internal on all writable disks, none on the others."""
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = name
    _add_disks(root, domain_disks)
    return ET.tostring(root, encoding="unicode")


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a snapshot's XML. ``created`` in seconds since 1970."""

    name: str
    created: float
    state: str
    parent: str | None


def snapshot_facts(xml: str) -> SnapshotFacts:
    """Parse the XML of a snapshot. Raises DriverError."""
    root = parse(xml, "domainsnapshot")
    try:
        created = float(root.findtext("creationTime") or 0)
    except ValueError:
        created = 0.0
    return SnapshotFacts(
        name=name_in(root),
        created=created,
        state=root.findtext("state") or "unknown",
        parent=root.findtext("parent/name"),
    )


def snapshot_of(xml: str, uuid: str, *, keep_parent: bool) -> str:
    """Return a snapshot's XML for a domain that was redefined, and so has another UUID."""
    root = parse(xml, "domainsnapshot")
    for tag in ("domain", "inactiveDomain"):
        definition = root.find(tag)
        if definition is not None:
            set_uuid(definition, uuid)
    parent = root.find("parent")
    if parent is not None and not keep_parent:
        root.remove(parent)
    return ET.tostring(root, encoding="unicode")


def snapshot_with_domain(xml: str, domain_xml: str) -> str:
    """Return a snapshot's XML for another definition of its domain: all its writable disks may hold it."""
    root, domain = parse(xml, "domainsnapshot"), parse(domain_xml, "domain")
    for tag in ("disks", "domain", "inactiveDomain"):
        for old in root.findall(tag):
            root.remove(old)
    _add_disks(root, disks_in(domain))
    root.append(domain)
    return ET.tostring(root, encoding="unicode")


def _add_disks(root: ET.Element, disks: Iterable[Disk]) -> None:
    """Add the disks of a snapshot. With memory, libvirt permits no writable one outside it."""
    holder = ET.SubElement(root, "disks")
    for disk in disks:
        ET.SubElement(holder, "disk", name=disk.target, snapshot="internal" if disk.writable else "no")
