"""Sending other hosts what their guests need, and no more: what is there is not sent again.

Images, as they came or as golden images were made, are sent by their content: once per host. Seeds and disks
are each guest's own. A disk is sent once; from then on what its guest writes is on its host, and only there.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import Blob, BlobStore, Inventory
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.transfer_plan import Digests, NeededFile, Sent, needed_files, note_sent
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import ActionLog, RunningStep
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.stages import Job, together
from kvmcompose.server.orchestrator.testbed import Guest, Testbed

STAGE = "distribute"
#: How often it is told how far something large has come, in seconds.
_TELL_SECONDS = 5.0
_MIB = 1 << 20

Reason = tuple[str, str | None]


class Distribution:
    """What one ``up`` sends to whom. Before anything else all hosts have to be checked."""

    def __init__(self, context: Context, testbed: Testbed, journal: ActionLog, *, provision: bool) -> None:
        self._context = context
        self._testbed = testbed
        digests = Digests(testbed.folder)
        self._digests = digests
        self._main = context.host(testbed.main_host)
        self._others = {
            name: OtherHost(context, testbed, journal, drivers, digests, provision=provision)
            for name, drivers in context.hosts(testbed).items()
            if name != testbed.main_host.name and drivers.depot is not None
        }
        #: A member's main host is sent what all guests need, before any other host is.
        self._delivery = (
            Delivery(context, testbed, journal, self._main, digests, provision=provision)
            if self._main.depot is not None
            else None
        )

    async def check(self, name: str) -> list[Reason]:
        """What keeps a host from being sent anything; nothing of the main host. Raises DriverError."""
        if self._delivery is not None and name == self._main.name:
            return await self._delivery.check()
        return await self._others[name].check() if name in self._others else []

    async def prepare(self, host: HostDrivers) -> Path:
        """The project's folder on a host, made if need be."""
        if host.depot is not None:
            await host.depot.open(self._context.project, await self._context.read_home())
        return self._context.folder_on(host)

    async def deliver(self, host: HostDrivers, running: Collection[str]) -> None:
        """Send a member's main host everything; nothing is sent where the folder itself is used."""
        if self._delivery is not None and host.name == self._main.name:
            await self._delivery.send(running, ())

    def is_to_be_put(self, guest: Guest) -> bool:
        """Whether the main host has no disk of a guest, or will be sent another one."""
        return self._delivery is not None and self._delivery.lacks(_disk(guest))

    async def run(self, running: Collection[str], failed: Collection[str]) -> set[str]:
        """Send everything; the names of hosts that could not be sent what they need.

        Disks of guests that are ``running`` stay as they are, what ``failed`` ones need is left out.
        """
        await in_thread(self._digests.look_again)  # golden images are other files now

        def job(other: OtherHost) -> Job:
            return lambda: other.send(running, failed)

        jobs = [job(other) for other in self._others.values()]
        results = await together(jobs, limit=max(1, len(jobs)))
        await in_thread(self._digests.keep)
        return {name for name, good in zip(self._others, results, strict=True) if not good}

    # -- disks, wherever they are

    def path(self, guest: Guest) -> Path:
        """Where a guest's disk lies on its host."""
        return self._context.folder_on(self._context.host_of(guest, self._testbed)) / _disk(guest)

    async def has_data(self, guest: Guest) -> bool:
        """Whether a guest has written to its disk."""
        other = self._others.get(guest.state.testbed_host)
        if guest.run is None or guest.run.disk is None:
            return False
        if other is not None and other.has(guest.run.disk):
            return await other.has_data(guest.run.disk)
        if self.is_to_be_put(guest):
            return False
        # the main host's goes there, with all that is in it
        return not await self._main.disks.pristine(self._testbed.folder / guest.run.disk)

    async def renew(self, guest: Guest) -> None:
        """Give a guest an empty disk: all that is on it is lost."""
        other = self._others.get(guest.state.testbed_host)
        if other is not None:
            await other.drop(_disk(guest))  # a new one is sent
        here = self._testbed.folder / _disk(guest)
        if other is None or not await self._main.disks.pristine(here):
            await self._main.disks.reset_overlay(here)


class OtherHost:
    """A host that is not the main host: what it has, and what it lacks."""

    def __init__(
        self,
        context: Context,
        testbed: Testbed,
        journal: ActionLog,
        drivers: HostDrivers,
        digests: Digests,
        *,
        provision: bool,
    ) -> None:
        assert drivers.depot is not None  # noqa: S101 (else it were the main host)
        self.name = drivers.name
        self._project = context.project
        self._context = context
        self._here = testbed.folder
        self._location, self._member = context.location, context.member
        self._there = context.folder_on(drivers)
        self._guests = [
            guest
            for guest in testbed.runnable
            if guest.run is not None and guest.state.testbed_host == self.name
        ]
        self._elsewhere = [guest for guest in testbed.runnable if guest.state.testbed_host != self.name]
        self._journal = journal
        self._disks = drivers.disks
        self._depot: BlobStore = drivers.depot
        self._digests = digests
        self._provision = provision
        self._delivered: dict[str, str] = {}
        self._stored: frozenset[str] = frozenset()

    # -- before anything is changed

    async def check(self) -> list[Reason]:
        """See what it has; what is in the way. Raises DriverError when nothing can be done with it."""
        held = await self._depot.look(self._project, await self._context.read_home())
        self._delivered, self._stored = dict(held.delivered), held.stored
        # of a member's, nothing has been sent to the main host yet
        wanted = await self._wanted(first=True)
        reasons = [*self._check_room(held, wanted)]
        if not self._provision:
            reasons += await self._check_disks(wanted)
        return reasons

    def _check_room(self, held: Inventory, wanted: Mapping[str, _Wanted]) -> Iterator[Reason]:
        needed = sum(
            max(0, each.size - held.parts.get(digest, 0))
            for digest, each in _shared(wanted).items()
            if digest not in self._stored
        )
        needed += sum(each.parcel.size for path, each in wanted.items() if self._is_to_be_put(path, each))
        if needed > held.room:
            yield (
                f"there is no room: {_mib(needed)} have to be sent, {_mib(held.room)} are free",
                "images of other testbeds are in /var/lib/kvm-compose/.store there",
            )

    async def _check_disks(self, wanted: Mapping[str, _Wanted]) -> list[Reason]:
        """Disks with data that would be lost, or left behind."""
        lost = [
            guest.name
            for guest in self._guests
            if (disk := _disk_or_none(guest)) is not None
            and disk in self._delivered
            and self._is_to_be_put(disk, wanted[disk])
            and await self.has_data(disk)
        ]
        reasons: list[Reason] = []
        if lost:
            reasons.append(
                (
                    f"the disks of {', '.join(lost)} were built anew, and hold data",
                    "kvm-compose up --provision makes them anew: what they wrote is lost",
                )
            )
        for guest in self._elsewhere:
            disk = _disk_or_none(guest)
            if disk in self._delivered and disk is not None and await self.has_data(disk):
                place = guest.state.testbed_host
                hint = f"pin it (placement: {{pin: {{{guest.name}: {self.name}}}}}), or lose what it wrote"
                reasons.append(
                    (f"{guest.name} has data here, and lies on {place} now", f"{hint}: up --provision")
                )
        return reasons

    # -- disks

    def has(self, disk: str) -> bool:
        """Whether a disk is there."""
        return disk in self._delivered

    async def has_data(self, disk: str) -> bool:
        """Whether a disk is there that a guest has written to."""
        return disk in self._delivered and not await self._disks.pristine(self._there / disk)

    async def drop(self, disk: str) -> None:
        """Remove a disk."""
        await self._disks.remove(self._there / disk)
        self._delivered.pop(disk, None)

    # -- sending

    async def send(self, running: Collection[str], failed: Collection[str]) -> None:
        """Send what it lacks; see ``Distribution.run``. Raises StepFailedError."""
        with self._journal.step(STAGE, "look", host=self.name) as step:
            wanted = await self._wanted(failed)
            step.skip()
        sent = 0
        for digest, parcel in _shared(wanted).items():
            if digest not in self._stored:
                sent += await self._send_image(digest, parcel)
        with self._journal.step(STAGE, "files", host=self.name) as step:
            sent += await self._send_files(wanted, running)
            await self._sent(wanted)
            if sent:
                step.say(f"{self.name} was sent {_mib(sent)}")
            else:
                step.skip()

    async def _sent(self, wanted: Mapping[str, _Wanted]) -> None:
        """Note it."""
        files = {path: each.digest for path, each in wanted.items() if not each.parcel.shared}
        noted = Sent(frozenset(_shared(wanted)), files)
        await in_thread(note_sent, self._here, self.name, noted)

    async def _send_image(self, digest: str, parcel: NeededFile) -> int:
        with self._journal.step(STAGE, f"send:{Path(parcel.path).name}", host=self.name) as step:
            counter = _Counter(step, parcel)
            await self._depot.store(digest, parcel.source, counter.add)
            counter.end()
        return counter.sent

    async def _send_files(self, wanted: Mapping[str, _Wanted], running: Collection[str]) -> int:
        links = {
            path: each.digest
            for path, each in wanted.items()
            if each.parcel.shared and self._delivered.get(path) != each.digest
        }
        if links:
            await self._depot.link(self._project, links)
        if self._provision:
            for guest in self._elsewhere:
                if (disk := _disk_or_none(guest)) in self._delivered and disk is not None:
                    await self.drop(disk)
        in_use = {_disk_or_none(guest) for guest in self._guests if guest.name in running}
        files = {
            path: Blob(each.digest, each.parcel.source)
            for path, each in wanted.items()
            if path not in in_use and self._is_to_be_put(path, each)
        }
        for path in files:
            if wanted[path].parcel.disk and not self._provision and await self.has_data(path):
                raise DriverError(f"{path} holds data on {self.name}, and was built anew")
        sent: list[int] = []
        if files:
            await self._depot.put(self._project, files, sent.append)
        return sum(sent)

    async def _wanted(self, but: Collection[str] = (), *, first: bool = False) -> dict[str, _Wanted]:
        """What its guests need, by path, as it is now; all ``but`` some guests. ``first``: as it comes in."""
        member = self._member if first else None
        runs = [guest.run for guest in self._guests if guest.run is not None and guest.name not in but]

        def find() -> dict[str, _Wanted]:
            try:
                found = needed_files(self._here if member is None else self._location, runs, member)
                of = self._digests.of if member is None else member.digest
                return {path: _Wanted(each, of(each.source)) for path, each in found.items()}
            except OSError as error:
                raise DriverError(
                    f"cannot read {error.filename}, which guests of {self.name} need: {error.strerror}",
                    hint="kvm-compose generate links images again",
                ) from error

        return await in_thread(find)

    def _is_to_be_put(self, path: str, wanted: _Wanted) -> bool:
        if wanted.parcel.shared:
            return False
        there = self._delivered.get(path)
        return there != wanted.digest or (wanted.parcel.disk and self._provision)


class Delivery(OtherHost):
    """The main host of a member's testbed: sent what all guests need, as it comes in from the folder."""

    def __init__(
        self,
        context: Context,
        testbed: Testbed,
        journal: ActionLog,
        drivers: HostDrivers,
        digests: Digests,
        *,
        provision: bool,
    ) -> None:
        super().__init__(context, testbed, journal, drivers, digests, provision=provision)
        self._guests = [guest for guest in testbed.guests.values() if guest.run is not None]
        self._elsewhere = []
        self._golden = {disk for guest in testbed.golden if (disk := _disk_or_none(guest)) is not None}
        self._to_come: set[str] = set()

    async def check(self) -> list[Reason]:
        """As of any host."""
        reasons = await super().check()
        wanted = await self._wanted(first=True)
        self._to_come = {path for path, each in wanted.items() if self._is_to_be_put(path, each)}
        return reasons

    def lacks(self, disk: str) -> bool:
        """Whether a disk is not there, or another one will take its place."""
        return disk in self._to_come

    async def has_data(self, disk: str) -> bool:
        """Golden images hold what scripts make again; whether clones are in the way is asked elsewhere."""
        return disk not in self._golden and await super().has_data(disk)

    async def _wanted(self, but: Collection[str] = (), *, first: bool = False) -> dict[str, _Wanted]:
        del first
        return await super()._wanted(but, first=True)

    async def _sent(self, wanted: Mapping[str, _Wanted]) -> None:
        """Look at what has come, where nobody changes it any more."""
        await self._depot.check_images(self._project, wanted.keys())
        self._to_come = set()


class _Wanted(msgspec.Struct, frozen=True):
    """A parcel, and the digest of what is in it."""

    parcel: NeededFile
    digest: str


class _Counter:
    """How much of something was sent."""

    def __init__(self, step: RunningStep, parcel: NeededFile) -> None:
        self._step = step
        self._parcel = parcel
        self._told = self._began = time.monotonic()
        self.sent = 0

    def add(self, count: int) -> None:
        self.sent += count
        now = time.monotonic()
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self._step.say(f"{_mib(self.sent)} of {_mib(self._parcel.size)}")

    def end(self) -> None:
        if self.sent:
            took = time.monotonic() - self._began
            self._step.say(f"{Path(self._parcel.path).name}: {_mib(self.sent)} sent in {took:.1f} s")


def _shared(wanted: Mapping[str, _Wanted]) -> dict[str, NeededFile]:
    """What is sent by its content, each once."""
    return {each.digest: each.parcel for each in wanted.values() if each.parcel.shared}


def _disk_or_none(guest: Guest) -> str | None:
    return guest.run.disk if guest.run is not None else None


def _disk(guest: Guest) -> str:
    disk = _disk_or_none(guest)
    assert disk is not None  # noqa: S101 (golden images and their clones have one)
    return disk


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
