"""Which host has a disk of a guest.

A disk is on the host that its guest ran on last: with its data it moves to where the guest is placed. The
main host records what it sent to others (``Sent``), and which copies are not to be used: those of a disk that
has moved on, and those that have not arrived as a whole. A host's own record says what it still has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import Instance
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import Inventory
from kvmcompose.hosts.transfer_plan import Sent, read_sent
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed


class SeenHosts(Protocol):
    """What the search needs of a ``View``, which has its result."""

    context: Context
    hosts: Mapping[str, HostDrivers]

    async def instances_of(self, runtime: str, host: HostDrivers) -> Mapping[str, Instance]:
        """Return what a runtime has of the project on a host, by name."""

    async def inventory(self, host: HostDrivers) -> Inventory:
        """Return what a host has of the project's files."""


class DiskPlaces(msgspec.Struct, frozen=True, kw_only=True):
    """Where disks are that are not where their guests are placed. Keys are paths of disks.

    ``moving``: the host that has the disk. ``stale``: hosts with a copy that is not to be used.
    ``contested``: the hosts that have different disks, none of which is known to be the right one. ``lost``:
    the host that has the disk, and belongs to the testbed no more. ``left_over``: disks of no guest, by host.
    """

    moving: Mapping[str, str] = {}
    stale: Mapping[str, Sequence[str]] = {}
    contested: Mapping[str, Sequence[str]] = {}
    lost: Mapping[str, str] = {}
    left_over: Mapping[str, Sequence[str]] = {}

    def incoming(self, host: str, owners: Mapping[str, LoadedGuest]) -> frozenset[str]:
        """Return the paths of the disks that move to a host."""
        paths = {*self.moving, *self.contested, *self.lost}
        return frozenset(path for path in paths if owners[path].state.testbed_host == host)


async def find_places(
    view: SeenHosts, main: str, testbed: LoadedTestbed, abandoned: Sequence[str]
) -> DiskPlaces:
    """Return where the disks of a testbed are. Hosts that do not answer are left out."""
    guests = testbed.runnable
    search = _Search(view, main, abandoned, testbed.source.to_be_made)
    await search.look()
    for guest in guests:
        for path in guest.disks:
            await search.place(guest, path)
    return search.found(guests)


class _Search:
    def __init__(
        self, view: SeenHosts, main: str, abandoned: Sequence[str], to_be_made: Collection[str]
    ) -> None:
        self._view = view
        self._main = main
        self._abandoned = abandoned
        self._to_be_made = to_be_made
        self._sent: Mapping[str, Sent] = {}
        self._held: dict[str, Inventory] = {}
        #: By path of a disk: the hosts with a copy that is not to be used, with one that is, and the hosts
        #: that are gone and had it.
        self._stale_on: dict[str, list[str]] = {}
        self._usable_on: dict[str, list[str]] = {}
        self._gone_with: dict[str, list[str]] = {}
        self._on: dict[str, set[str]] = {}
        self._moving: dict[str, str] = {}
        self._stale: dict[str, list[str]] = {}
        self._contested: dict[str, list[str]] = {}
        self._lost: dict[str, str] = {}

    async def look(self) -> None:
        """Ask all hosts what they have, and what runs on them."""
        sent = await in_thread(read_sent, self._view.context.folder)
        self._sent = {name: each for name, each in sent.items() if name not in self._abandoned}
        for name, host in self._view.hosts.items():
            try:
                domains = await self._view.instances_of("libvirt", host)
                if name != self._main and host.blobs is not None:
                    self._held[name] = await self._view.inventory(host)
            except KvmComposeError:
                continue
            self._on[name] = {each.guest for each in domains.values() if each.state != "shut off"}
        self._index()

    def _index(self) -> None:
        """Note by path who has it: there are as many paths on each host as guests."""
        for name in (*self._held, self._main):
            for path in self._sent.get(name, Sent()).stale:
                self._stale_on.setdefault(path, []).append(name)
        for name, held in self._held.items():
            for path in held.delivered.keys() - self._sent.get(name, Sent()).stale:
                self._usable_on.setdefault(path, []).append(name)
        for name in self._sent:
            if name in self._view.hosts or name == self._main:
                continue
            for path in self._sent[name].files:
                self._gone_with.setdefault(path, []).append(name)

    async def place(self, guest: LoadedGuest, path: str) -> None:
        """Find out which host has a disk of a guest."""
        wanted = guest.state.testbed_host
        self._stale[path] = self._stale_on.get(path, [])
        having = self._usable_on.get(path, [])
        gone = self._gone_with.get(path, [])
        if having == [wanted] or not (having or gone or wanted != self._main):
            return
        data = [name for name in having if name != wanted and await self._has_data(name, guest, path)]
        if wanted in having and (not data or await self._has_data(wanted, guest, path)):
            data.append(wanted)
        noted = [name for name in data if path in self._sent.get(name, Sent()).files]
        if noted:
            holders = [wanted] if wanted in noted else noted
        elif gone:
            self._lost[path] = gone[0]
            return
        elif wanted in data:
            holders = [wanted]
        elif await self._main_has_data(guest, path):
            holders = [self._main]
        else:
            holders = data
        if len(holders) > 1 or (wanted in data and holders != [wanted]):
            self._contested[path] = list(dict.fromkeys((*holders, *data)))
        elif holders and holders != [wanted]:
            self._moving[path] = holders[0]

    def found(self, guests: Sequence[LoadedGuest]) -> DiskPlaces:
        """Return what was found."""
        known = {path for guest in guests for path in guest.disks}
        left = {
            name: sorted(
                path
                for path in each.files
                if path in held.delivered and path not in known and not path.endswith(".iso")
            )
            for name, held in self._held.items()
            if (each := self._sent.get(name)) is not None
        }
        return DiskPlaces(
            moving=self._moving,
            stale={path: hosts for path, hosts in self._stale.items() if hosts},
            contested=self._contested,
            lost=self._lost,
            left_over={name: paths for name, paths in left.items() if paths},
        )

    def _is_stale(self, host: str, path: str) -> bool:
        return path in self._sent.get(host, Sent()).stale

    async def _has_data(self, host: str, guest: LoadedGuest, path: str) -> bool:
        if guest.name in self._on.get(host, ()):
            return True
        drivers = self._view.hosts[host]
        if path in guest.shared_disks:
            return await drivers.disks.length(self._view.context.folder_on(drivers) / path) > 0
        if path not in guest.image_disks:
            return True  # nothing tells
        return not await drivers.disks.pristine(self._view.context.folder_on(drivers) / path)

    async def _main_has_data(self, guest: LoadedGuest, path: str) -> bool:
        """Return whether the main host's disk is more than what was built.

        That a disk without a backing file has data says nothing: it may be a copy of an image.
        """
        main = self._view.hosts[self._main]
        if self._is_stale(self._main, path) or path in self._to_be_made:
            return False
        if guest.name in self._on.get(self._main, ()):
            return True
        if main.blobs is not None and path not in (await self._view.inventory(main)).delivered:
            return False  # it is delivered by this action
        disk = self._view.context.folder_on(main) / path
        if path in guest.shared_disks:
            return await main.disks.length(disk) > 0
        if path not in guest.image_disks:
            return False
        return (
            not await main.disks.pristine(disk) and (await main.disks.header(disk)).backing_file is not None
        )
