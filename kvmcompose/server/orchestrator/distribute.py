"""Sending other hosts what their guests need, and no more: what is there is not sent again.

Images, as they came or as golden images were made, are sent by their content: once per host. Seeds and disks
are each guest's own. A disk is sent once; from then on what its guest writes is on its host, and only there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from kvmcompose.core.deployment import Level
from kvmcompose.effects.freight import Digests, Parcel, Sent, note_sent, parcels
from kvmcompose.server.drivers import Depot, DriverError, HostDrivers
from kvmcompose.server.journal import Journal, RunningStep
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.stages import Job, together
from kvmcompose.server.orchestrator.testbed import Guest, Testbed

STAGE = "distribute"
#: How often it is told how far something large has come, in seconds.
_TELL_SECONDS = 5.0
_MIB = 1 << 20


class _Remote(msgspec.Struct):
    """A host that is not the main host, and what it has. ``delivered`` is as when it was looked at."""

    drivers: HostDrivers
    depot: Depot
    delivered: Mapping[str, str] = {}


class Distribution:
    """What one ``up`` sends."""

    def __init__(self, context: Context, testbed: Testbed, journal: Journal, *, provision: bool) -> None:
        self._context = context
        self._testbed = testbed
        self._journal = journal
        self._provision = provision
        self._digests = Digests(testbed.folder)
        self._remotes = {
            name: _Remote(drivers, drivers.depot)
            for name, drivers in context.hosts(testbed).items()
            if drivers.depot is not None
        }

    # -- before anything is changed

    async def check(self, name: str) -> list[tuple[str, str | None]]:
        """What keeps a host from being sent anything; nothing of the main host. Raises DriverError."""
        remote = self._remotes.get(name)
        if remote is None:
            return []
        await remote.depot.check(self._context.project, self._context.home)
        remote.delivered = await remote.depot.delivered(self._context.project)
        wanted = self._parcels(name)
        reasons: list[tuple[str, str | None]] = []
        missing = await self._missing(remote, wanted)
        room, needed = await remote.depot.room(), sum(parcel.size for parcel in missing)
        if needed > room:
            reasons.append(
                (
                    f"there is no room: {_mib(needed)} have to be sent, {_mib(room)} are free",
                    "images of other testbeds are in /var/lib/kvm-compose/.store there",
                )
            )
        if not self._provision:
            holding = [
                guest.name
                for guest in self._guests(name)
                if guest.run is not None
                and guest.run.disk is not None
                and remote.delivered.get(guest.run.disk)
                not in (None, await self._digest(wanted, guest.run.disk))
                and await self.has_data(guest)
            ]
            if holding:
                reasons.append(
                    (
                        f"the disks of {', '.join(holding)} were built anew, and hold data",
                        "kvm-compose up --provision makes them anew: what they wrote is lost",
                    )
                )
        return reasons

    async def _missing(self, remote: _Remote, wanted: Mapping[str, Parcel]) -> list[Parcel]:
        """What would be sent, as things are now."""
        shared = {await self._digest(wanted, path): each for path, each in wanted.items() if each.shared}
        stored = await remote.depot.stored(list(shared))
        missing = [parcel for digest, parcel in shared.items() if digest not in stored]
        for path, parcel in wanted.items():
            if not parcel.shared and await self._is_to_be_put(remote, parcel, path):
                missing.append(parcel)
        return missing

    async def _is_to_be_put(self, remote: _Remote, parcel: Parcel, path: str) -> bool:
        there = remote.delivered.get(path)
        if there is None or (parcel.disk and self._provision):
            return True
        return there != await asyncio.to_thread(self._digests.of, parcel.source)

    async def _digest(self, wanted: Mapping[str, Parcel], path: str) -> str:
        return await asyncio.to_thread(self._digests.of, wanted[path].source)

    def _guests(self, name: str) -> list[Guest]:
        return [guest for guest in self._testbed.runnable if guest.state.testbed_host == name]

    def _parcels(self, name: str) -> dict[str, Parcel]:
        return parcels(self._testbed.folder, [guest.run for guest in self._guests(name) if guest.run])

    # -- disks, wherever they are

    def path(self, guest: Guest) -> Path:
        """Where a guest's disk lies on its host."""
        assert guest.run is not None  # noqa: S101 (only guests that run have one)
        assert guest.run.disk is not None  # noqa: S101
        host = self._context.host_of(guest, self._testbed)
        return self._context.folder_on(host) / guest.run.disk

    async def has_data(self, guest: Guest) -> bool:
        """Whether a guest has written to its disk."""
        remote = self._remotes.get(guest.state.testbed_host)
        if guest.run is None or guest.run.disk is None:
            return False
        if remote is not None and guest.run.disk not in remote.delivered:
            return False
        return not await self._context.host_of(guest, self._testbed).disks.pristine(self.path(guest))

    async def renew(self, guest: Guest) -> None:
        """Give a guest an empty disk: all that is on it is lost."""
        disks = self._context.host_of(guest, self._testbed).disks
        remote = self._remotes.get(guest.state.testbed_host)
        if remote is None:
            await disks.reset_overlay(self.path(guest))
            return
        await disks.remove(self.path(guest))  # a new one is sent
        remote.delivered = {
            path: digest for path, digest in remote.delivered.items() if guest.run and path != guest.run.disk
        }

    # -- the stages

    async def prepare(self, host: HostDrivers) -> Path:
        """The project's folder on a host, made if need be."""
        if host.depot is not None:
            await host.depot.open(self._context.project, self._context.home)
        return self._context.folder_on(host)

    async def run(self, running: Collection[str]) -> bool:
        """Send everything; whether all hosts have it. Disks of guests that run stay as they are."""
        self._digests.look_again()  # golden images are other files now
        jobs = [self._job(name, remote, running) for name, remote in self._remotes.items()]
        good = all(await together(jobs, limit=max(1, len(jobs))))
        await asyncio.to_thread(self._digests.keep)
        return good

    def _job(self, name: str, remote: _Remote, running: Collection[str]) -> Job:
        async def job() -> None:
            wanted = self._parcels(name)
            shared = {path: await self._digest(wanted, path) for path, each in wanted.items() if each.shared}
            images = await self._send_images(name, remote, wanted, shared)
            with self._journal.step(STAGE, "files", host=name) as step:
                await remote.depot.link(self._context.project, shared)
                in_use = {
                    guest.run.disk for guest in self._guests(name) if guest.run and guest.name in running
                }
                own = {path: each for path, each in wanted.items() if path not in in_use}
                files = await self._send_files(remote, own)
                if not images and not files:
                    step.skip()
                else:
                    step.say(f"{name} was sent {_mib(images + files)}")
            sent = Sent(
                frozenset(shared.values()),
                {path: await self._digest(wanted, path) for path, each in wanted.items() if not each.shared},
            )
            await asyncio.to_thread(note_sent, self._testbed.folder, name, sent)

        return job

    async def _send_images(
        self, name: str, remote: _Remote, wanted: Mapping[str, Parcel], shared: Mapping[str, str]
    ) -> int:
        stored = await remote.depot.stored(list(shared.values()))
        waiting = {digest: wanted[path] for path, digest in shared.items() if digest not in stored}
        sent = 0
        for digest, parcel in waiting.items():
            with self._journal.step(STAGE, f"send:{Path(parcel.path).name}", host=name) as step:
                counter = _Counter(step, parcel)
                await remote.depot.store(digest, parcel.source, counter.add)
                counter.end()
                sent += counter.sent
        return sent

    async def _send_files(self, remote: _Remote, wanted: Mapping[str, Parcel]) -> int:
        sent = 0

        def add(count: int) -> None:
            nonlocal sent
            sent += count

        for path, parcel in wanted.items():
            if parcel.shared or not await self._is_to_be_put(remote, parcel, path):
                continue
            if parcel.disk and not self._provision and await self._still_has_data(remote, path):
                raise DriverError(f"{path} holds data on {remote.drivers.name}, and was built anew")
            digest = await self._digest(wanted, path)
            await remote.depot.put(self._context.project, path, digest, parcel.source, add)
        return sent

    async def _still_has_data(self, remote: _Remote, path: str) -> bool:
        if path not in remote.delivered:
            return False
        return not await remote.drivers.disks.pristine(self._context.folder_on(remote.drivers) / path)


class _Counter:
    """How much of something was sent."""

    def __init__(self, step: RunningStep, parcel: Parcel) -> None:
        self._step = step
        self._parcel = parcel
        self._told = self._began = time.monotonic()
        self.sent = 0

    @property
    def add(self) -> Callable[[int], None]:
        return self._add

    def _add(self, count: int) -> None:
        self.sent += count
        now = time.monotonic()
        if now - self._told > _TELL_SECONDS:
            self._told = now
            self._step.say(f"{_mib(self.sent)} of {_mib(self._parcel.size)}")

    def end(self) -> None:
        if self.sent:
            took = time.monotonic() - self._began
            self._step.say(
                f"{Path(self._parcel.path).name}: {_mib(self.sent)} sent in {took:.1f} s", Level.INFO
            )


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
