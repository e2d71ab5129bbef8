"""Snapshots inside the disks of domains."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import libvirt

from kvmcompose.hosts import arp
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import alive, snapshot_tables
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import snapshot_definitions as snapshot_xmls
from kvmcompose.providers.libvirt.connection import Connection
from kvmcompose.providers.libvirt.interface.snapshots import SnapshotState

_QCOW2 = "qcow2"
#: How long qemu-img may take to revert a disk to a snapshot, in seconds.
_SNAPSHOT_SECONDS = 600.0


class LibvirtSnapshots:
    """The snapshots of domains on one host. ``runner`` runs qemu-img."""

    def __init__(self, connection: Connection, runner: CommandRunner) -> None:
        self._connection = connection
        self._runner = runner

    async def of(self, domain: str) -> Sequence[SnapshotState]:
        return await self._connection.on_domain(f"list the snapshots of {domain}", domain, _listed)

    async def create(self, domain: str, name: str) -> None:
        """Create a snapshot of disk and, if the domain runs, memory; the guest is paused meanwhile."""
        doing = f"create the snapshot {name} of {domain}"
        disks = await self._connection.on_domain(doing, domain, _room, name=name)
        snapshot_tables.refuse_to_create(domain, name, await snapshot_tables.read(self._runner, disks))
        await self._refuse_without_room(
            domain, disks[0], await self._connection.on_domain(doing, domain, _memory)
        )
        await self._connection.on_domain_once(doing, domain, _create, name=name)

    async def _refuse_without_room(self, domain: str, disk: xmls.Disk, memory: int) -> None:
        """Raise DriverError if there is less room than the memory of a guest may take.

        Where QEMU notices that while it writes, it has filled the file system, and what it has written stays
        in the disk until another snapshot was created and deleted.
        """
        argv = ["df", "--output=avail", "-B1", "--", disk.path]
        done = await self._runner.run(argv, privileged=True, check=False)
        free = done.text.split()[-1:]
        if memory and free and free[0].isdecimal() and int(free[0]) < memory:
            raise DriverError(
                f"no room for a snapshot of {domain}: its memory takes up to {_mib(memory)}, and"
                f" {_mib(int(free[0]))} are free where its disk {disk.target} is",
                hint="make room there, or stop the guest first: a snapshot of one that is off has no memory",
            )

    async def restore(self, domain: str, name: str) -> None:
        doing = f"restore the snapshot {name} of {domain}"
        xml = await self._connection.on_domain(doing, domain, _xml, name=name)
        state, disks = snapshot_xmls.snapshot_facts(xml).state, snapshot_xmls.snapshot_disks(xml)
        # media count where the guest is started again
        used = disks if state == snapshot_tables.OFF else snapshot_xmls.disks_at_snapshot(xml)
        await self._refuse_without(used, f"the snapshot {name} of {domain}", name)
        tables = await snapshot_tables.read(self._runner, disks)
        corrections = snapshot_tables.corrections(domain, name, state, tables)
        await self._connection.on_domain(doing, domain, _restore, name=name)
        for argv in corrections:
            await self._runner.run(argv, privileged=True, seconds=_SNAPSHOT_SECONDS)
        await arp.leave_arp_to_bridges(
            self._runner, await self._connection.on_domain(doing, domain, alive.taps)
        )

    async def _refuse_without(self, disks: Sequence[xmls.Disk], snapshot: str, name: str) -> None:
        """Raise DriverError if a file is gone. libvirt notices that when it has ended the guest."""
        paths = sorted({disk.path for disk in disks if disk.path})
        argv = ["stat", "-L", "-c", "%n", "--", *paths]
        done = await self._runner.run(argv, privileged=True, check=False)
        if done.status:
            gone = [path for path in paths if path not in done.text.splitlines()]
            raise DriverError(
                f"{snapshot} needs what is gone: {', '.join(gone) or done.complaint}",
                hint="a medium comes back with its entry in 'disks' and kvm-compose up;"
                f" kvm-compose snapshot delete {name} deletes the rest of the snapshot",
            )

    async def delete(self, domain: str, name: str) -> None:
        doing = f"delete the snapshot {name} of {domain}"
        unplugged = await self._connection.on_domain_once(doing, domain, _delete, name=name)
        for path in unplugged:  # unless the disk is gone
            argv = ["qemu-img", "snapshot", "-d", name, "--", path]
            await self._runner.run(argv, privileged=True, check=False, seconds=_SNAPSHOT_SECONDS)

    async def redefine(self, domain: str, xml: str) -> None:
        """Redefine a snapshot whose data is in the disk; does nothing when libvirt knows it."""
        doing = f"redefine the snapshot {snapshot_xmls.snapshot_facts(xml).name} of {domain}"
        await self._connection.on_domain(doing, domain, _redefine, xml=xml)


# the functions below run in the threads of the connection


def _listed(domain: Any) -> list[SnapshotState]:
    current = domain.snapshotCurrent().getName() if domain.hasCurrentSnapshot() else None
    found = []
    for snapshot in domain.listAllSnapshots():
        try:
            xml = snapshot.getXMLDesc()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                continue  # it was deleted meanwhile
            raise
        facts = snapshot_xmls.snapshot_facts(xml)
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


def _room(domain: Any, *, name: str) -> list[xmls.Disk]:
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


def _memory(domain: Any) -> int:
    """Return how much of a guest's memory a snapshot may store, in bytes; 0 of one that is off.

    Pages of zeros take no room, and the guest has touched no others than QEMU has in memory. Huge pages do
    not count among those.
    """
    if not domain.isActive():
        return 0
    now = domain.info()[2]
    try:
        resident = domain.memoryStats().get("rss", now)
    except libvirt.libvirtError:
        resident = now
    if xmls.parse(domain.XMLDesc(), "domain").find("memoryBacking/hugepages") is not None:
        resident = now
    return 1024 * int(min(now, resident))


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"


def _create(domain: Any, *, name: str) -> None:
    """Create the snapshot, in the disks that ``_room`` returns."""
    disks = list(xmls.disks(domain.XMLDesc()))
    domain.snapshotCreateXML(snapshot_xmls.snapshot_xml(name, iter(disks)))


def _xml(domain: Any, *, name: str) -> str:
    """Return the XML of a snapshot. Raises DriverError when there is none of that name."""
    found: str = _known(domain, name).getXMLDesc()
    return found


def _restore(domain: Any, *, name: str) -> None:
    """Revert to a snapshot. Raises DriverError when there is none of that name."""
    snapshot = _known(domain, name)
    try:
        domain.revertToSnapshot(snapshot)
    except libvirt.libvirtError as error:
        # the definition has changed since, or the snapshot was redefined: QEMU is restarted
        if error.get_error_code() != libvirt.VIR_ERR_SNAPSHOT_REVERT_RISKY:
            raise
        domain.revertToSnapshot(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE)


def _delete(domain: Any, *, name: str) -> list[str]:
    """Delete a snapshot; return the paths of disks that hold it, and that the domain has no longer.

    Raises DriverError when there is none of that name.
    """
    snapshot = _known(domain, name)
    xml, now = snapshot.getXMLDesc(), domain.XMLDesc()
    then = {disk.target: disk.path for disk in snapshot_xmls.snapshot_disks(xml)}
    targets = {disk.path: disk.target for disk in xmls.disks(now)}
    if any(targets.get(path) != target for target, path in then.items()):
        # libvirt looks for the disks of then by their targets; 9.0 crashes where there is no such target
        _discard(domain, snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        try:
            snapshot = _redefined(domain, snapshot_xmls.snapshot_with_domain(xml, now))
        except libvirt.libvirtError:
            _redefined(domain, xml)
            raise
    _discard(domain, snapshot)
    return [path for path in then.values() if path not in targets]


def _discard(domain: Any, snapshot: Any, flags: int = 0) -> None:
    """Delete a snapshot. libvirt 9.0 has done so when it misses a disk of it in one that was made since."""
    name = snapshot.getName()
    try:
        snapshot.delete(flags)
    except libvirt.libvirtError:
        if _lookup(domain, name) is not None:
            raise


def _redefine(domain: Any, *, xml: str) -> None:
    """Redefine a snapshot, unless libvirt knows it."""
    if _lookup(domain, snapshot_xmls.snapshot_facts(xml).name) is None:
        _redefined(domain, xml)


def _redefined(domain: Any, xml: str) -> Any:
    """Redefine a snapshot, and return it."""
    parent = snapshot_xmls.snapshot_facts(xml).parent
    parent_known = parent is not None and _lookup(domain, parent) is not None
    text = snapshot_xmls.snapshot_of(xml, domain.UUIDString(), keep_parent=parent_known)
    return domain.snapshotCreateXML(text, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)


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
