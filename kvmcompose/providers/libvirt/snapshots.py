"""Snapshots that lie inside the disks of a domain. Runs in the threads of a libvirt connection."""

from __future__ import annotations

import difflib
from typing import Any

import libvirt

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.interface import SnapshotState

_QCOW2 = "qcow2"


def listed(domain: Any) -> list[SnapshotState]:
    """The domain's snapshots, the oldest first."""
    current = domain.snapshotCurrent().getName() if domain.hasCurrentSnapshot() else None
    found = []
    for snapshot in domain.listAllSnapshots():
        try:
            xml = snapshot.getXMLDesc()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                continue  # it went meanwhile
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
    """The disks that a new snapshot goes into.

    Raises DriverError when the name is taken, or a disk cannot hold snapshots.
    """
    if _lookup(domain, name) is not None:
        raise DriverError(
            f"{domain.name()} has a snapshot {name} already",
            hint="choose another name, or delete that one first",
        )
    disks = list(xmls.disks(domain.XMLDesc()))
    writable = [disk for disk in disks if disk.writable]
    if not writable:
        raise DriverError(f"{domain.name()} has no disk that it writes to: there is nothing to keep")
    for disk in writable:
        if disk.format != _QCOW2:
            raise DriverError(
                f"{domain.name()} cannot have snapshots: its disk {disk.target} is {disk.format},"
                f" and only {_QCOW2} holds any"
            )
    return writable


def create(domain: Any, *, name: str) -> None:
    """Make the snapshot, in the disks that ``room`` tells."""
    disks = list(xmls.disks(domain.XMLDesc()))
    domain.snapshotCreateXML(xmls.snapshot_xml(name, iter(disks)))


def places(domain: Any, *, name: str) -> tuple[str, list[xmls.Disk]]:
    """The state that the guest was in, and the disks that the snapshot lies in.

    Raises DriverError when there is no such snapshot.
    """
    xml = _known(domain, name).getXMLDesc()
    return xmls.snapshot_facts(xml).state, xmls.snapshot_disks(xml)


def restore(domain: Any, *, name: str) -> None:
    """Raises DriverError when there is no such snapshot."""
    snapshot = _known(domain, name)
    try:
        domain.revertToSnapshot(snapshot)
    except libvirt.libvirtError as error:
        # the domain was defined otherwise since, or was told of the snapshot again: QEMU starts anew
        if error.get_error_code() != libvirt.VIR_ERR_SNAPSHOT_REVERT_RISKY:
            raise
        domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE)


def delete(domain: Any, *, name: str) -> None:
    """Raises DriverError when there is no such snapshot."""
    _known(domain, name).delete()


def know(domain: Any, *, xml: str) -> None:
    """Nothing when libvirt knows of it."""
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
