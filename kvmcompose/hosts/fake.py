"""Simulated hosts: which calls are made to them, which fail, and where their state is saved."""

from __future__ import annotations

import asyncio
import copy
import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake_journal import Journal
from kvmcompose.hosts.fake_world import FakeDisk, Place, World, decode_worlds

#: How many calls are remembered, for tests.
_MOST_CALLS = 50_000
#: The key of the main host's world, whatever the host is called.
MAIN = ""


class Failure(msgspec.Struct):
    """Makes calls that match ``pattern`` fail, ``left`` more times (None: always)."""

    pattern: str
    left: int | None = None

    @staticmethod
    def parse(text: str) -> Failure:
        """``PATTERN`` or ``PATTERN=TIMES``."""
        pattern, _, times = text.rpartition("=")
        if pattern and times.isdecimal():
            return Failure(pattern, int(times))
        return Failure(text)


class FakeProbe(msgspec.Struct, frozen=True):
    """A packet that a guest sends, with the MAC address of its first NIC. ``token`` is unique."""

    mac: str
    protocol: str
    address: str
    port: int
    token: str


class Worlds:
    """All simulated hosts, and the calls made to them. ``path`` is where they are saved, None: nowhere."""

    def __init__(self, path: Path | None = None, failures: Sequence[str] = (), delay: float = 0) -> None:
        self.path = path
        self.failures = [Failure.parse(each) for each in failures]
        self.delay = delay
        self.calls: list[str] = []
        self.worlds = {MAIN: World()}
        #: What guests have sent; while a capture runs, it shows all of it.
        self.probes: list[FakeProbe] = []
        self._journal = None if path is None else Journal(path)
        saved = None if self._journal is None else self._journal.load()
        if saved:
            self.worlds = decode_worlds(saved)

    @property
    def world(self) -> World:
        """The main host's."""
        return self.worlds[MAIN]

    async def call(self, method: str, target: str = "") -> None:
        """Every method calls this first: it records the call, waits for the delay, and may fail."""
        name = f"{method}:{target}" if target else method
        self.calls.append(name)
        if len(self.calls) > _MOST_CALLS:  # of a server that runs for long
            del self.calls[: _MOST_CALLS // 2]
        await asyncio.sleep(self.delay)
        for failure in self.failures:
            if failure.left != 0 and fnmatch.fnmatchcase(name, failure.pattern):
                if failure.left is not None:
                    failure.left -= 1
                raise DriverError(
                    f"{name} was made to fail", hint="this is a fake host: kvm-compose server --fake"
                )

    def keep(self, key: str = MAIN, *places: Place) -> None:
        """Save what has changed in a host's world, or everything of all hosts."""
        if self._journal is None:
            return
        changes = dict(self.worlds[key].at(place) for place in places)
        if not places or self._journal.append({(key, *place): value for place, value in changes.items()}):
            self._journal.save(self.worlds)

    def release(self) -> None:
        """Close the files."""
        if self._journal is not None:
            self._journal.close()


class SimulatedHost:
    """One simulated host. Except on the main host, calls begin with the host's name: ``two/facts``."""

    def __init__(self, worlds: Worlds, name: str) -> None:
        self._worlds = worlds
        self._name = name
        self._prefix = f"{name}/" if name != MAIN else ""
        self.world = worlds.worlds.setdefault(name, World())

    def keep(self, *places: Place) -> None:
        """Save what has changed, or everything."""
        self._worlds.keep(self._name, *places)

    def macs_on(self) -> set[str]:
        """Return the MAC addresses of all guests that are on, on any host."""
        return {
            nic.mac
            for world in self._worlds.worlds.values()
            for domain in world.domains.values()
            if domain.started
            for nic in domain.hardware.nics
        }

    def renew(self, macs: Iterable[str]) -> None:
        """Note that guests have no address from an earlier network: they ask when they start."""
        asking, main = set(macs), self._worlds.world
        if not asking.isdisjoint(main.unleased):
            main.unleased = [mac for mac in main.unleased if mac not in asking]
            self._worlds.keep()

    def main_disk(self, path: Path) -> FakeDisk | None:
        """Return a copy of a disk of the main host."""
        return copy.deepcopy(self._worlds.world.disks.get(str(path)))

    def arrive(self, path: Path, disk: FakeDisk) -> None:
        """Put a copy of a disk on the main host."""
        self._worlds.world.disks[str(path)] = copy.deepcopy(disk)
        self._worlds.keep(MAIN, ("disks", str(path)))

    @property
    def probes(self) -> Sequence[FakeProbe]:
        """Return what the guests of all hosts have sent."""
        return self._worlds.probes

    @property
    def everywhere(self) -> Iterable[World]:
        """The worlds of all hosts."""
        return self._worlds.worlds.values()

    def beside(self, name: str) -> World:
        """Return the world of a host by its name; the main host's is under ``MAIN``."""
        return self._worlds.worlds.get(name, self._worlds.world)

    async def call(self, method: str, target: str = "") -> None:
        """See ``Worlds.call``."""
        await self._worlds.call(f"{self._prefix}{method}", target)
