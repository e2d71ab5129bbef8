"""Snapshots inside the disks of a domain. Runs in the threads of a libvirt connection."""

from __future__ import annotations

import difflib
from typing import Any

import libvirt

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.interface import SnapshotState

_QCOW2 = "qcow2"


def listed(domain: Any) -> list[SnapshotState]:
    current = domain.snapshotCurrent().getName() if domain.hasCurrentSnapshot() else None
    found = []
    for snapshot in domain.listAllSnapshots():
        try:
            xml = snapshot.getXMLDesc()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                continue  # it was deleted meanwhile
            raise
        facts = xmls.snapshot_facts(xml)
        found.append(
            SnapshotState(
                name=facts.name,
                created=facts.created,
                state=facts.state,
                current=facts.name == current,
                xml=xml,
            )
        )
    return sorted(found, key=lambda each: each.created)


def room(domain: Any, *, name: str) -> list[xmls.Disk]:
    """Return the disks that a new snapshot is stored in.

    Raises DriverError when the name is taken, or a disk cannot hold snapshots.
    """
    if _lookup(domain, name) is not None:
        raise DriverError(
            f"{domain.name()} already has a snapshot {name}",
            hint="choose another name, or delete that one first",
        )
    disks = list(xmls.disks(domain.XMLDesc()))
    writable = [disk for disk in disks if disk.writable]
    if not writable:
        raise DriverError(f"{domain.name()} has no writable disk: there is nothing to snapshot")
    for disk in writable:
        if disk.format != _QCOW2:
            raise DriverError(
                f"{domain.name()} cannot have snapshots: its disk {disk.target} is {disk.format},"
                f" and only {_QCOW2} can hold them"
            )
    return writable


def create(domain: Any, *, name: str) -> None:
    """Create the snapshot, in the disks that ``room`` returns."""
    disks = list(xmls.disks(domain.XMLDesc()))
    domain.snapshotCreateXML(xmls.snapshot_xml(name, iter(disks)))


def places(domain: Any, *, name: str) -> tuple[str, list[xmls.Disk]]:
    """Return the state that the guest was in, and the disks that hold the snapshot.

    Raises DriverError when there is no such snapshot.
    """
    xml = _known(domain, name).getXMLDesc()
    return xmls.snapshot_facts(xml).state, xmls.snapshot_disks(xml)


def restore(domain: Any, *, name: str) -> None:
    """Revert to a snapshot. Raises DriverError when there is none of that name."""
    snapshot = _known(domain, name)
    try:
        domain.revertToSnapshot(snapshot)
    except libvirt.libvirtError as error:
        # the definition has changed since, or the snapshot was redefined: QEMU is restarted
        if error.get_error_code() != libvirt.VIR_ERR_SNAPSHOT_REVERT_RISKY:
            raise
        domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE)


def delete(domain: Any, *, name: str) -> None:
    """Delete a snapshot. Raises DriverError when there is none of that name."""
    _known(domain, name).delete()


def know(domain: Any, *, xml: str) -> None:
    """Redefine a snapshot, unless libvirt knows it."""
    facts = xmls.snapshot_facts(xml)
    if _lookup(domain, facts.name) is not None:
        return
    parent_known = facts.parent is not None and _lookup(domain, facts.parent) is not None
    text = xmls.snapshot_of(xml, domain.UUIDString(), keep_parent=parent_known)
    domain.snapshotCreateXML(text, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)


def _lookup(domain: Any, name: str) -> Any:
    try:
        return domain.snapshotLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
            return None
        raise


def _known(domain: Any, name: str) -> Any:
    snapshot = _lookup(domain, name)
    if snapshot is not None:
        return snapshot
    names = domain.snapshotListNames()
    near = difflib.get_close_matches(name, names, 3)
    if near:
        hint = f"did you mean {', '.join(near)}?"
    else:
        hint = f"there are: {', '.join(sorted(names))}" if names else "there are none"
    raise DriverError(f"{domain.name()} has no snapshot {name}", hint=hint)
