"""The state of simulated hosts: what exists on them, which calls fail, and where it is saved."""

from __future__ import annotations

import asyncio
import copy
import fnmatch
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.hosts.blob_store import HOSTED, Blob, FileSize, Inventory
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake_journal import Journal
from kvmcompose.images.qcow2 import read_header

#: Where something is in a world: the name of a field of ``World``, then keys or names of fields.
Place = tuple[str, ...]

#: The key of the main host's world, whatever the host is called.
MAIN = ""


class FakeNic(msgspec.Struct, frozen=True):
    """A NIC of a domain: a port of an Open vSwitch bridge, unless it is in a libvirt ``network``."""

    tap: str
    bridge: str
    mac: str
    network: bool = False


class FakeHardware(msgspec.Struct):
    """What a domain has. Memory in MiB; ``disks`` are targets."""

    memory_mb: int = 64
    most_memory_mb: int = 64
    cpus: int = 1
    most_cpus: int = 1
    nics: list[FakeNic] = []
    disks: list[str] = []


class FakeDomain(msgspec.Struct):
    """A domain. ``started`` in seconds since 1970, 0 while it is off.

    ``taps`` are the names of its ports while it runs. ``paused`` is why it is paused, "" when it is not;
    ``off`` why it is off, where that is known. ``made`` is what it runs as, ``defined`` what its definition
    says, and its next start; likewise ``hardware`` and ``next_hardware``. ``edited``: its definition was, by
    hand. ``clings``: its guest lets go of no device.
    """

    project: str
    guest: str
    started: float = 0
    disk: str = ""
    snapshots: dict[str, str] = {}
    taps: list[str] = []
    paused: str = ""
    off: str = ""
    made: str = ""
    defined: str = ""
    hardware: FakeHardware = msgspec.field(default_factory=FakeHardware)
    next_hardware: FakeHardware | None = None
    edited: bool = False
    clings: bool = False


class FakeDisk(msgspec.Struct):
    """A disk: ``markers`` are files in the guest that record which scripts have run, with their contents.

    ``sent`` is the digest of what was sent for ``/etc/nocloud`` since cloud-init unpacked the seed ``seed``,
    ``files`` are digests of its members. ``size``, ``backing`` and ``backing_format`` are those of its
    header, where it was sent.
    """

    written: bool = False
    frozen: bool = False
    version: int = 0
    markers: dict[str, str] = {}
    seed: str = ""
    sent: str = ""
    files: dict[str, str] = {}
    size: int = 0
    backing: str | None = None
    backing_format: str | None = None


class FakePort(msgspec.Struct):
    """A port of a bridge; see ``FoundPort``."""

    type: str = ""
    options: dict[str, str] = {}
    mac: str | None = None
    marked: bool = True
    capture: bool = False


class FakeBridge(msgspec.Struct):
    """An Open vSwitch bridge with its ports, by name; see ``FoundBridge``."""

    datapath_type: str = ""
    protocol: str | None = None
    controller: str | None = None
    fail_mode: str | None = None
    ports: dict[str, FakePort] = {}


class FakeLink(msgspec.Struct):
    """One end of a veth pair; see ``FoundLink``."""

    peer: str
    up: bool = True
    mtu: int = 1500
    master: str | None = None
    attached: bool = False


class World(msgspec.Struct):
    """Everything on one simulated host. ``blobs``: what was sent to it, by digest; ``delivered``: by path.

    ``bridges``: by project and name; those of no project are under the empty name. ``subnets``: those that
    the host is attached to, each with its interface. ``networks`` have their project,
    ``network_definitions`` the XML where it is known, ``stopped_networks`` those that are not active.
    """

    domains: dict[str, FakeDomain] = {}
    networks: dict[str, str] = {}
    network_definitions: dict[str, str] = {}
    stopped_networks: list[str] = []
    bridges: dict[str, dict[str, FakeBridge]] = {}
    links: dict[str, FakeLink] = {}
    subnets: dict[str, str] = {}
    projects: dict[str, str] = {}
    disks: dict[str, FakeDisk] = {}
    blobs: dict[str, int] = msgspec.field(name="depot", default_factory=dict)
    delivered: dict[str, dict[str, str]] = {}
    homes: dict[str, str] = {}

    def plug(self, name: str, nics: Iterable[FakeNic]) -> list[Place]:
        """Create the ports of a domain's NICs, as libvirt does. Returns what changed. Raises DriverError."""
        changed: list[Place] = []
        for nic in nics:
            if nic.network:
                continue
            project = next((each for each in self.bridges if nic.bridge in self.bridges[each]), None)
            if project is None:
                raise DriverError(f"{name}: cannot add the port {nic.tap}: no bridge named {nic.bridge}")
            changed += self._remove_port(nic.tap)
            self.bridges[project][nic.bridge].ports[nic.tap] = FakePort(mac=nic.mac, marked=False)
            changed.append(("bridges", project, nic.bridge, "ports", nic.tap))
            if nic.tap not in self.domains[name].taps:
                self.domains[name].taps.append(nic.tap)
        return changed

    def unplug(self, name: str, taps: Collection[str] | None = None) -> list[Place]:
        """Remove the ports of a domain from whichever bridge they are on, as libvirt does; None: all.

        Returns what changed.
        """
        domain = self.domains[name]
        gone = domain.taps if taps is None else taps
        changed = [place for tap in gone for place in self._remove_port(tap)]
        domain.taps = [] if taps is None else [tap for tap in domain.taps if tap not in taps]
        return changed

    def drop_network(self, name: str) -> None:
        """Remove a network with its Linux bridge: what was a port of that is one of none."""
        self.networks.pop(name, None)
        xml = self.network_definitions.pop(name, "")
        for link in self.links.values():
            if link.master is not None and f'<bridge name="{link.master}"' in xml:
                link.master = None

    def _remove_port(self, name: str) -> list[Place]:
        found = [
            (project, each)
            for project, bridges in self.bridges.items()
            for each, bridge in bridges.items()
            if name in bridge.ports
        ]
        for project, each in found:
            del self.bridges[project][each].ports[name]
        return [("bridges", project, each, "ports", name) for project, each in found]

    def at(self, place: Place) -> tuple[Place, Any]:
        """Return the place in JSON, and what is there; None when nothing is."""
        first, *rest = place
        value: Any = getattr(self, first)
        for key in rest:
            value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return (_IN_JSON[first], *rest), value


_IN_JSON = {field.name: field.encode_name for field in msgspec.structs.fields(World)}


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


class Worlds:
    """All simulated hosts, and the calls made to them. ``path`` is where they are saved, None: nowhere."""

    def __init__(self, path: Path | None = None, failures: Sequence[str] = (), delay: float = 0) -> None:
        self.path = path
        self.failures = [Failure.parse(each) for each in failures]
        self.delay = delay
        self.calls: list[str] = []
        self.worlds = {MAIN: World()}
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


def decode_worlds(saved: dict[str, Any]) -> dict[str, World]:
    """Decode saved worlds. Up to version 0.1 bridges have the names of their ports, links and markers are
    names.
    """
    for world in saved.values():
        for disk in world.get("disks", {}).values():
            if isinstance(markers := disk.get("markers"), list):
                disk["markers"] = dict.fromkeys(markers, "")
        for bridges in world.get("bridges", {}).values():
            for name, ports in bridges.items():
                if isinstance(ports, list):
                    bridges[name] = {"fail_mode": "standalone", "ports": {port: {} for port in ports}}
        links = world.get("links")
        if isinstance(links, list):  # pairs were created together, the left end first
            pairs = zip(links[::2], links[1::2], strict=True)
            world["links"] = {
                end: {"peer": other, "attached": True}
                for left, right in pairs
                for end, other in ((left, right), (right, left))
            }
    return msgspec.convert(saved, dict[str, World])


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

    def main_disk(self, path: Path) -> FakeDisk | None:
        """Return a copy of a disk of the main host."""
        return copy.deepcopy(self._worlds.world.disks.get(str(path)))

    def arrive(self, path: Path, disk: FakeDisk) -> None:
        """Put a copy of a disk on the main host."""
        self._worlds.world.disks[str(path)] = copy.deepcopy(disk)
        self._worlds.keep(MAIN, ("disks", str(path)))

    async def call(self, method: str, target: str = "") -> None:
        """See ``Worlds.call``."""
        await self._worlds.call(f"{self._prefix}{method}", target)


class FakeBlobStore:
    """See ``BlobStore``. Nothing is sent, only counted."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def inspect(self, project: str, home: str) -> Inventory:
        await self._host.call("look", project)
        world = self._host.world
        if world.homes.get(project, home) != home:
            raise DriverError(f"{project} belongs to another main host")
        delivered = world.delivered.get(project, {})
        return Inventory(
            stored=frozenset(world.blobs),
            delivered=dict(delivered),
            linked=frozenset(path for path in delivered if str(HOSTED / project / path) not in world.disks),
            room=1 << 50,
        )

    async def open(self, project: str, home: str) -> None:
        await self._host.call("open_depot", project)
        self._host.world.homes[project] = home
        self._host.world.delivered.setdefault(project, {})
        self._host.keep(("homes", project), ("delivered", project))

    async def store(self, digest: str, source: Path, progress: Callable[[int], None]) -> None:
        await self._host.call("store", source.name)
        size = source.stat().st_size  # noqa: ASYNC240 (a fake may)
        progress(size)
        self._host.world.blobs[digest] = size
        self._host.keep(("blobs", digest))

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        await self._host.call("link", project)
        self._host.world.delivered[project].update(links)
        self._host.keep(*(("delivered", project, path) for path in links))

    async def put(self, project: str, files: Mapping[str, Blob], progress: Callable[[int], None]) -> None:
        for path, blob in files.items():
            await self._host.call("put", path)
            self._host.world.delivered[project][path] = blob.digest
            there = str(HOSTED / project / path)
            self._host.world.disks.pop(there, None)
            known = self._host.main_disk(blob.source)  # with what a guest has written to it
            if blob.source.exists():  # one that was fetched does not
                progress(blob.source.stat().st_size)
                header = read_header(blob.source)
                if header.format == "qcow2" and (known is None or not known.size):
                    known = known or FakeDisk()
                    known.size, known.backing = header.virtual_size, header.backing_file
                    known.backing_format = header.backing_format
            if known is not None:
                self._host.world.disks[there] = known
            self._host.keep(("delivered", project, path), ("disks", there))

    async def measure(self, project: str, path: str) -> FileSize:
        await self._host.call("measure", path)
        size = len(self._content(project, path))
        return FileSize(size, size)

    async def digest(self, project: str, path: str, size: FileSize) -> str:  # noqa: ARG002
        await self._host.call("digest", path)
        return hashlib.sha256(self._content(project, path)).hexdigest()

    async def fetch(
        self, project: str, path: str, blob: Blob, size: FileSize, progress: Callable[[int], None]
    ) -> None:
        await self._host.call("fetch", path)
        progress(size.length)
        self._host.arrive(blob.source, self._disk(project, path))

    def _disk(self, project: str, path: str) -> FakeDisk:
        disk = self._host.world.disks.get(str(HOSTED / project / path))
        if disk is None:
            raise DriverError(f"{path} is not there")
        return disk

    def _content(self, project: str, path: str) -> bytes:
        return msgspec.json.encode(self._disk(project, path))

    async def note(self, project: str, path: str, digest: str) -> None:
        await self._host.call("note", path)
        self._host.world.delivered[project][path] = digest
        self._host.keep(("delivered", project, path))

    async def check_images(self, project: str, paths: Collection[str]) -> None:  # noqa: ARG002
        await self._host.call("check_images", project)

    async def clear(self, project: str) -> None:
        await self._host.call("clear_depot", project)
        self._host.world.delivered.pop(project, None)
        self._host.world.homes.pop(project, None)
        gone = [path for path in self._host.world.disks if Path(path).is_relative_to(HOSTED / project)]
        for path in gone:
            del self._host.world.disks[path]
        self._host.keep(("delivered", project), ("homes", project), *(("disks", path) for path in gone))
