"""A host that is not there: every verb works, nothing is touched. To try pipelines out, and to break them.

Each call has a name, ``start_domain:web``: the method and what it is about. Patterns of such names (as of
the shell: ``start_domain:*``) can be made to fail, always or a number of times.
"""

from __future__ import annotations

import asyncio
import fnmatch
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from kvmcompose.core.deployable import VethPair
from kvmcompose.core.deployment import Capture
from kvmcompose.core.model import Host
from kvmcompose.effects.files import write_atomic
from kvmcompose.server.drivers import (
    Content,
    DomainState,
    DriverError,
    Holdings,
    HostDrivers,
    HypervisorFacts,
    Login,
    OnLine,
    SnapshotState,
    SwitchPlan,
)
from kvmcompose.server.drivers._fake_packets import file_header, record

#: The key of the main host's world, whatever the host is called.
_MAIN = ""
#: Seconds between two packets of fake guests.
_PING_SECONDS = 0.01
_GUEST = "{urn:kvmcompose:guest:1}guest"
_NETWORK = "{urn:kvmcompose:network:1}network"


class FakeDomain(msgspec.Struct):
    """A domain. ``started`` in seconds since 1970, 0 while it is off."""

    project: str
    guest: str
    started: float = 0
    disk: str = ""
    snapshots: dict[str, str] = {}


class FakeDisk(msgspec.Struct):
    """What is in a disk: ``markers`` are files in the guest that tell which scripts have run."""

    written: bool = False
    frozen: bool = False
    version: int = 0
    markers: list[str] = []


class World(msgspec.Struct):
    """All there is on one fake host. ``depot``: what was sent to it, by content; ``delivered``: by path."""

    domains: dict[str, FakeDomain] = {}
    networks: dict[str, str] = {}
    bridges: dict[str, dict[str, list[str]]] = {}
    links: list[str] = []
    projects: dict[str, str] = {}
    disks: dict[str, FakeDisk] = {}
    depot: dict[str, int] = {}
    delivered: dict[str, dict[str, str]] = {}


class Failure(msgspec.Struct):
    """Calls that fail: those that match ``pattern``, ``left`` more times (None: always)."""

    pattern: str
    left: int | None = None

    @staticmethod
    def parse(text: str) -> Failure:
        """``PATTERN`` or ``PATTERN=TIMES``."""
        pattern, _, times = text.rpartition("=")
        if pattern and times.isdecimal():
            return Failure(pattern, int(times))
        return Failure(text)


class FakeDrivers:
    """The drivers of hosts that are not there. ``path`` is where their world is kept, None: nowhere."""

    name = "fake"

    def __init__(self, path: Path | None = None, failures: Sequence[str] = (), delay: float = 0) -> None:
        self.path = path
        self.failures = [Failure.parse(each) for each in failures]
        self.delay = delay
        self.calls: list[str] = []
        self.worlds = {_MAIN: World()}
        if path is not None and path.exists():
            self.worlds = msgspec.json.decode(path.read_bytes(), type=dict[str, World])

    @property
    def world(self) -> World:
        """The main host's."""
        return self.worlds[_MAIN]

    async def call(self, method: str, target: str = "") -> None:
        """What every method begins with: it takes its time, and may fail."""
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

    def keep(self) -> None:
        """Write the world down."""
        if self.path is not None:
            write_atomic(self.path, msgspec.json.encode(self.worlds), mode=0o600)

    def host(self, host: Host) -> HostDrivers:
        """The drivers of one host."""
        fake = FakeHost(self, _MAIN if host.is_main_host else host.name)
        return HostDrivers(
            name=host.name,
            hypervisor=FakeHypervisor(fake, host.libvirt_uri),
            switches=FakeSwitches(fake),
            links=FakeLinks(fake),
            disks=FakeDisks(fake),
            captures=FakeCaptures(fake),
            depot=None if host.is_main_host else FakeDepot(fake),
        )

    def shell(self) -> FakeShell:
        """The way into guests."""
        return FakeShell(self)

    async def close(self) -> None:
        """Nothing is held."""


class FakeHost:
    """One of the hosts. Calls to others than the main host begin with the host's name: ``two/facts``."""

    def __init__(self, drivers: FakeDrivers, name: str) -> None:
        self._drivers = drivers
        self._prefix = f"{name}/" if name != _MAIN else ""
        self.world = drivers.worlds.setdefault(name, World())
        self.keep = drivers.keep

    async def call(self, method: str, target: str = "") -> None:
        """See ``FakeDrivers.call``."""
        await self._drivers.call(f"{self._prefix}{method}", target)


class FakeHypervisor:
    """See ``Hypervisor``."""

    def __init__(self, host: FakeHost, uri: str) -> None:
        self._host = host
        self.uri = uri

    @property
    def _world(self) -> World:
        return self._host.world

    async def facts(self) -> HypervisorFacts:
        """A big machine."""
        await self._host.call("facts")
        return HypervisorFacts(cpus=64, memory_mb=1 << 20, version="fake")

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        """Those of other projects."""
        await self._host.call("foreign_domains", project)
        others = {name for name, each in self._world.domains.items() if each.project != project}
        found = [f"domain {name}" for name in domains if name in others]
        owners = self._world.networks
        return found + [f"network {name}" for name in networks if owners.get(name, project) != project]

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """The project's domains."""
        await self._host.call("domains", project)
        now = time.time()
        return {
            name: DomainState(
                name=name,
                guest=domain.guest,
                state="running" if domain.started else "shut off",
                uptime=now - domain.started if domain.started else None,
                cpu_seconds=(now - domain.started) / 10 if domain.started else None,
                memory_mb=64 if domain.started else None,
            )
            for name, domain in self._world.domains.items()
            if domain.project == project
        }

    async def start_domain(self, xml: str) -> None:
        """Define and start."""
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        guest = tree.find(f"metadata/{_GUEST}")
        await self._host.call("start_domain", name)
        if guest is None:
            raise DriverError(f"{name}: the domain does not say that it is kvm-compose's")
        source = tree.find("devices/disk/source")
        disk = source.attrib["file"].rpartition("/")[2] if source is not None else ""
        domain = self._world.domains.setdefault(
            name, FakeDomain(guest.attrib["project"], guest.attrib["name"], disk=disk)
        )
        domain.started = domain.started or time.time()
        held = self._world.disks.setdefault(disk, FakeDisk())
        if held.frozen:
            raise DriverError(f"{name}: its disk is frozen")
        held.written = True
        held.version += 1
        self._host.keep()

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Fake guests obey."""
        await self._host.call("shut_down_domain", name)
        self._stop(name)
        return seconds > 0

    async def wait_off(self, name: str) -> None:
        """Return when the domain is off."""
        await self._host.call("wait_off", name)
        while self._world.domains.get(name, FakeDomain("", "")).started:  # noqa: ASYNC110 (a fake may)
            await asyncio.sleep(0.05)

    async def destroy_domain(self, name: str) -> None:
        """Switch off."""
        await self._host.call("destroy_domain", name)
        self._stop(name)

    def _stop(self, name: str) -> None:
        if name in self._world.domains:
            self._world.domains[name].started = 0
            self._host.keep()

    async def undefine_domain(self, name: str) -> None:
        """Forget."""
        await self._host.call("undefine_domain", name)
        if name in self._world.domains and self._world.domains[name].started:
            raise DriverError(f"{name} runs")
        self._world.domains.pop(name, None)
        self._host.keep()

    async def networks(self, project: str) -> Mapping[str, bool]:
        """The project's networks."""
        await self._host.call("networks", project)
        return {name: True for name, owner in self._world.networks.items() if owner == project}

    async def start_network(self, xml: str) -> None:
        """Define and start."""
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        await self._host.call("start_network", name)
        mark = tree.find(f"metadata/{_NETWORK}")
        self._world.networks[name] = mark.attrib["project"] if mark is not None else ""
        self._host.keep()

    async def leases(self, network: str) -> Mapping[str, str]:
        """No fake guest asks for an address."""
        await self._host.call("leases", network)
        return {}

    async def remove_network(self, name: str) -> None:
        """Stop and forget."""
        await self._host.call("remove_network", name)
        self._world.networks.pop(name, None)
        self._host.keep()

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        """The domain's snapshots."""
        await self._host.call("snapshots", domain)
        found = self._world.domains.get(domain, FakeDomain("", "")).snapshots
        last = next(reversed(found), None)
        return [
            SnapshotState(name=name, created=0, state="running", current=name == last, xml=xml)
            for name, xml in found.items()
        ]

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Make one."""
        await self._host.call("create_snapshot", domain)
        xml = f"<domainsnapshot><name>{name}</name><state>running</state></domainsnapshot>"
        self._domain(domain).snapshots[name] = xml
        self._host.keep()

    async def restore_snapshot(self, domain: str, name: str) -> None:
        """Go back to one."""
        await self._host.call("restore_snapshot", domain)
        if name not in self._domain(domain).snapshots:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._domain(domain).started = time.time()
        self._host.keep()

    async def delete_snapshot(self, domain: str, name: str) -> None:
        """Give one up."""
        await self._host.call("delete_snapshot", domain)
        if self._domain(domain).snapshots.pop(name, None) is None:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._host.keep()

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Know one again."""
        await self._host.call("know_snapshot", domain)
        name = ET.fromstring(xml).findtext("name") or ""  # noqa: S314 (see above)
        self._domain(domain).snapshots[name] = xml
        self._host.keep()

    def _domain(self, name: str) -> FakeDomain:
        if name not in self._world.domains:
            raise DriverError(f"there is no domain {name}")
        return self._world.domains[name]

    async def close(self) -> None:
        """Nothing is held."""


class FakeSwitches:
    """See ``Switches``."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def check(self) -> None:
        """It is always there."""
        await self._host.call("check")

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        """Those of other projects."""
        await self._host.call("foreign", plan.project)
        mine = self._host.world.bridges.get(plan.project, {})
        others = {name for each in self._host.world.bridges.values() for name in each} - mine.keys()
        return [bridge.name for bridge in plan.bridges if bridge.name in others]

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        """The project's bridges and their ports."""
        await self._host.call("bridges", project)
        return self._host.world.bridges.get(project, {})

    async def apply(self, plan: SwitchPlan) -> None:
        """All in one."""
        await self._host.call("apply_bridges", plan.project)
        bridges = self._host.world.bridges.setdefault(plan.project, {})
        for bridge in plan.bridges:
            bridges.setdefault(bridge.name, [])
        ports = [(veth.left_bridge, veth.left) for veth in plan.veths]
        ports += [(veth.right_bridge, veth.right) for veth in plan.veths if not veth.right_is_linux]
        ports += [(tunnel.bridge, tunnel.name) for tunnel in plan.tunnels]
        ports += [(nic.bridge, nic.nic) for nic in plan.nics]
        for bridge_name, port in ports:
            if port not in bridges[bridge_name]:
                bridges[bridge_name].append(port)
        self._host.keep()

    async def remove(self, names: Sequence[str]) -> None:
        """All in one."""
        await self._host.call("remove_bridges")
        for project, bridges in list(self._host.world.bridges.items()):
            for name in names:
                bridges.pop(name, None)
            if not bridges:
                del self._host.world.bridges[project]
        self._host.keep()


class FakeLinks:
    """See ``Links``."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def present(self, names: Sequence[str]) -> frozenset[str]:
        """Those that are there."""
        await self._host.call("present")
        return frozenset(names) & frozenset(self._host.world.links)

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:  # noqa: ARG002
        """All in one."""
        await self._host.call("apply_links")
        for veth in veths:
            for name in (veth.left, veth.right):
                if name not in self._host.world.links:
                    self._host.world.links.append(name)
        self._host.keep()

    async def remove(self, names: Sequence[str]) -> None:
        """All in one; with one end goes the other (which has the name that the project gives it)."""
        await self._host.call("remove_links")
        links = self._host.world.links
        for name in names:
            if name in links:
                at = links.index(name)
                del links[at : at + 2]  # pairs are made together, the left end first
        self._host.keep()


class FakeDisks:
    """See ``Disks``. The files of the project are left alone."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def _disk(self, path: Path) -> FakeDisk:
        return self._host.world.disks.setdefault(path.name, FakeDisk())

    async def link_project(self, project: str, folder: Path) -> None:
        """Note the folder."""
        await self._host.call("link_project", project)
        self._host.world.projects[project] = str(folder)
        self._host.keep()

    async def unlink_project(self, project: str, folder: Path) -> None:
        """Forget it."""
        await self._host.call("unlink_project", project)
        if self._host.world.projects.get(project) == str(folder):
            del self._host.world.projects[project]
        self._host.keep()

    async def pristine(self, path: Path) -> bool:
        """Whether no fake guest has had it."""
        await self._host.call("pristine", path.name)
        return not self._disk(path).written

    async def reset_overlay(self, path: Path) -> None:
        """Empty it."""
        await self._host.call("reset_overlay", path.name)
        self._host.world.disks[path.name] = FakeDisk(version=self._disk(path).version + 1)
        self._host.keep()

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Note it."""
        await self._host.call("set_frozen", path.name)
        self._disk(path).frozen = frozen
        self._host.keep()

    async def signature(self, path: Path) -> str:
        """Its version."""
        await self._host.call("signature", path.name)
        return str(self._disk(path).version)

    async def remove(self, path: Path) -> None:
        """Forget it; the file stays."""
        await self._host.call("remove_disk", path.name)
        self._host.world.disks.pop(path.name, None)
        self._host.keep()

    async def read_tail(self, path: Path, lines: int) -> str:
        """What a fake console shows."""
        await self._host.call("read_tail", path.name)
        return "\n".join(["(a fake console)"][:lines])


class FakeDepot:
    """See ``Depot``. Nothing is sent; what would be is counted."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def look(self, project: str, home: str) -> Holdings:  # noqa: ARG002 (there is one main host)
        """What has come."""
        await self._host.call("look", project)
        world = self._host.world
        return Holdings(
            stored=frozenset(world.depot), delivered=dict(world.delivered.get(project, {})), room=1 << 50
        )

    async def open(self, project: str, home: str) -> None:  # noqa: ARG002 (see above)
        """Note whose it is."""
        await self._host.call("open_depot", project)
        self._host.world.delivered.setdefault(project, {})
        self._host.keep()

    async def store(self, digest: str, source: Path, told: Callable[[int], None]) -> None:
        """Count it."""
        await self._host.call("store", source.name)
        size = source.stat().st_size  # noqa: ASYNC240 (a fake may)
        told(size)
        self._host.world.depot[digest] = size
        self._host.keep()

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        """Note them."""
        await self._host.call("link", project)
        self._host.world.delivered[project].update(links)
        self._host.keep()

    async def put(self, project: str, files: Mapping[str, Content], told: Callable[[int], None]) -> None:
        """Note them; a disk is a new one."""
        for path, content in files.items():
            await self._host.call("put", path)
            told(content.source.stat().st_size)
            self._host.world.delivered[project][path] = content.digest
            self._host.world.disks.pop(path.rpartition("/")[2], None)
            self._host.keep()

    async def clear(self, project: str) -> None:
        """All that was delivered goes."""
        await self._host.call("clear_depot", project)
        self._host.world.delivered.pop(project, None)
        self._host.keep()


class FakeCaptures:
    """See ``Captures``. Guests ping each other as long as any is on; filters let everything through."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def check_filter(self, expression: str) -> str | None:
        """Of the syntax only parentheses are understood."""
        await self._host.call("check_filter", expression)
        return None if expression.count("(") == expression.count(")") else "syntax error"

    async def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets of a guest."""
        await self._host.call("capture", name)
        async for chunk in self._pings(wanted):
            yield chunk

    async def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """The same packets, with a port of the bridge that is there meanwhile."""
        await self._host.call("mirror", name)
        port = f"cap-{id(wanted) & 0xFFFF:x}"
        ports = self._host.world.bridges[project][name]
        ports.append(port)
        try:
            async for chunk in self._pings(wanted):
                yield chunk
        finally:
            ports.remove(port)

    async def _pings(self, wanted: Capture) -> AsyncGenerator[bytes]:
        yield file_header(wanted.snaplen)
        number = 0
        while number != wanted.count and any(each.started for each in self._host.world.domains.values()):
            yield record(number, wanted.snaplen, time.time())
            await asyncio.sleep(_PING_SECONDS)
            number += 1


class FakeShell:
    """See ``Shell``. Commands are not run, but for a few that tests and users need."""

    def __init__(self, drivers: FakeDrivers) -> None:
        self._drivers = drivers

    def _find(self, login: Login) -> tuple[World, FakeDomain]:
        for world in self._drivers.worlds.values():
            domain = world.domains.get(login.alias)
            if domain is not None and domain.started:
                return world, domain
        raise DriverError(f"{login.guest} does not run")

    async def wait_ready(self, login: Login, seconds: float) -> None:  # noqa: ARG002 (fakes are ready at once)
        """Ready when it runs."""
        await self._drivers.call("wait_ready", login.guest)
        self._find(login)

    async def run(
        self,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        seconds: float | None = None,
    ) -> int:
        """``true``, ``false``, ``echo``, ``sleep``, and what scripts need; everything else just succeeds."""
        words = list(argv[3:] if list(argv[:3]) == ["sudo", "-n", "--"] else argv)
        await self._drivers.call("run", f"{login.guest}:{words[-1]}")
        world, domain = self._find(login)
        markers = world.disks.setdefault(domain.disk, FakeDisk()).markers
        match words:
            case ["test", "-e", path]:
                return 0 if path in markers else 1
            case ["sh", "-c", note, _, path] if ': >"$1"' in note:
                markers.append(path)
                self._drivers.keep()
            case ["false"]:
                return 1
            case ["echo", *rest]:
                on_line(" ".join(rest))
            case ["sleep", time_]:
                try:
                    await asyncio.wait_for(asyncio.sleep(float(time_)), seconds)
                except TimeoutError:
                    raise DriverError(f"{login.guest}: sleep did not end within {seconds:g} s") from None
            case _:
                on_line(f"(a fake guest) {words[-1]}")
        return 0

    async def forget(self, login: Login) -> None:
        """There is no key to forget."""
        await self._drivers.call("forget", login.guest)
