"""A host that is not there: every verb works, nothing is touched. To try pipelines out, and to break them.

Each call has a name, ``start_domain:web``: the method and what it is about. Patterns of such names (as of
the shell: ``start_domain:*``) can be made to fail, always or a number of times.
"""

from __future__ import annotations

import asyncio
import fnmatch
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from kvmcompose.core.deployable import VethPair
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.model import Host
from kvmcompose.effects.files import write_atomic
from kvmcompose.server.drivers import (
    DomainState,
    DriverError,
    HostDrivers,
    HypervisorFacts,
    Login,
    OnLine,
    SnapshotState,
    SwitchPlan,
)

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
    """All there is on the fake host."""

    domains: dict[str, FakeDomain] = {}
    networks: dict[str, str] = {}
    bridges: dict[str, dict[str, list[str]]] = {}
    links: list[str] = []
    projects: dict[str, str] = {}
    disks: dict[str, FakeDisk] = {}


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
        self.world = World()
        if path is not None and path.exists():
            self.world = msgspec.json.decode(path.read_bytes(), type=World)

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
            write_atomic(self.path, msgspec.json.encode(self.world), mode=0o600)

    def host(self, host: Host) -> HostDrivers:
        """The drivers of one host."""
        if not host.is_main_host:
            raise RefusedError(f"{host.name}: testbeds on several hosts cannot be brought up yet")
        return HostDrivers(
            name=host.name,
            hypervisor=FakeHypervisor(self, host.libvirt_uri),
            switches=FakeSwitches(self),
            links=FakeLinks(self),
            disks=FakeDisks(self),
        )

    def shell(self) -> FakeShell:
        """The way into guests."""
        return FakeShell(self)

    async def close(self) -> None:
        """Nothing is held."""


class FakeHypervisor:
    """See ``Hypervisor``."""

    def __init__(self, drivers: FakeDrivers, uri: str) -> None:
        self._drivers = drivers
        self.uri = uri

    @property
    def _world(self) -> World:
        return self._drivers.world

    async def facts(self) -> HypervisorFacts:
        """A big machine."""
        await self._drivers.call("facts")
        return HypervisorFacts(cpus=64, memory_mb=1 << 20, version="fake")

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """The project's domains."""
        await self._drivers.call("domains", project)
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
        await self._drivers.call("start_domain", name)
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
        self._drivers.keep()

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Fake guests obey."""
        await self._drivers.call("shut_down_domain", name)
        self._stop(name)
        return seconds > 0

    async def wait_off(self, name: str) -> None:
        """Return when the domain is off."""
        await self._drivers.call("wait_off", name)
        while self._world.domains.get(name, FakeDomain("", "")).started:  # noqa: ASYNC110 (a fake may)
            await asyncio.sleep(0.05)

    async def destroy_domain(self, name: str) -> None:
        """Switch off."""
        await self._drivers.call("destroy_domain", name)
        self._stop(name)

    def _stop(self, name: str) -> None:
        if name in self._world.domains:
            self._world.domains[name].started = 0
            self._drivers.keep()

    async def undefine_domain(self, name: str) -> None:
        """Forget."""
        await self._drivers.call("undefine_domain", name)
        if name in self._world.domains and self._world.domains[name].started:
            raise DriverError(f"{name} runs")
        self._world.domains.pop(name, None)
        self._drivers.keep()

    async def networks(self, project: str) -> Mapping[str, bool]:
        """The project's networks."""
        await self._drivers.call("networks", project)
        return {name: True for name, owner in self._world.networks.items() if owner == project}

    async def start_network(self, xml: str) -> None:
        """Define and start."""
        tree = ET.fromstring(xml)  # noqa: S314 (see above)
        name = tree.findtext("name") or ""
        await self._drivers.call("start_network", name)
        mark = tree.find(f"metadata/{_NETWORK}")
        self._world.networks[name] = mark.attrib["project"] if mark is not None else ""
        self._drivers.keep()

    async def leases(self, network: str) -> Mapping[str, str]:
        """No fake guest asks for an address."""
        await self._drivers.call("leases", network)
        return {}

    async def remove_network(self, name: str) -> None:
        """Stop and forget."""
        await self._drivers.call("remove_network", name)
        self._world.networks.pop(name, None)
        self._drivers.keep()

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        """The domain's snapshots."""
        await self._drivers.call("snapshots", domain)
        found = self._world.domains.get(domain, FakeDomain("", "")).snapshots
        last = next(reversed(found), None)
        return [
            SnapshotState(name=name, created=0, state="running", current=name == last, xml=xml)
            for name, xml in found.items()
        ]

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Make one."""
        await self._drivers.call("create_snapshot", domain)
        xml = f"<domainsnapshot><name>{name}</name><state>running</state></domainsnapshot>"
        self._domain(domain).snapshots[name] = xml
        self._drivers.keep()

    async def restore_snapshot(self, domain: str, name: str) -> None:
        """Go back to one."""
        await self._drivers.call("restore_snapshot", domain)
        if name not in self._domain(domain).snapshots:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._domain(domain).started = time.time()
        self._drivers.keep()

    async def delete_snapshot(self, domain: str, name: str) -> None:
        """Give one up."""
        await self._drivers.call("delete_snapshot", domain)
        if self._domain(domain).snapshots.pop(name, None) is None:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._drivers.keep()

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Know one again."""
        await self._drivers.call("know_snapshot", domain)
        name = ET.fromstring(xml).findtext("name") or ""  # noqa: S314 (see above)
        self._domain(domain).snapshots[name] = xml
        self._drivers.keep()

    def _domain(self, name: str) -> FakeDomain:
        if name not in self._world.domains:
            raise DriverError(f"there is no domain {name}")
        return self._world.domains[name]

    async def close(self) -> None:
        """Nothing is held."""


class FakeSwitches:
    """See ``Switches``."""

    def __init__(self, drivers: FakeDrivers) -> None:
        self._drivers = drivers

    async def check(self) -> None:
        """It is always there."""
        await self._drivers.call("check")

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        """Those of other projects."""
        await self._drivers.call("foreign", plan.project)
        mine = self._drivers.world.bridges.get(plan.project, {})
        others = {name for each in self._drivers.world.bridges.values() for name in each} - mine.keys()
        return [bridge.name for bridge in plan.bridges if bridge.name in others]

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        """The project's bridges and their ports."""
        await self._drivers.call("bridges", project)
        return self._drivers.world.bridges.get(project, {})

    async def apply(self, plan: SwitchPlan) -> None:
        """All in one."""
        await self._drivers.call("apply_bridges", plan.project)
        bridges = self._drivers.world.bridges.setdefault(plan.project, {})
        for bridge in plan.bridges:
            bridges.setdefault(bridge.name, [])
        ports = [(veth.left_bridge, veth.left) for veth in plan.veths]
        ports += [(veth.right_bridge, veth.right) for veth in plan.veths if not veth.right_is_linux]
        ports += [(tunnel.bridge, tunnel.name) for tunnel in plan.tunnels]
        ports += [(nic.bridge, nic.nic) for nic in plan.nics]
        for bridge_name, port in ports:
            if port not in bridges[bridge_name]:
                bridges[bridge_name].append(port)
        self._drivers.keep()

    async def remove(self, names: Sequence[str]) -> None:
        """All in one."""
        await self._drivers.call("remove_bridges")
        for project, bridges in list(self._drivers.world.bridges.items()):
            for name in names:
                bridges.pop(name, None)
            if not bridges:
                del self._drivers.world.bridges[project]
        self._drivers.keep()


class FakeLinks:
    """See ``Links``."""

    def __init__(self, drivers: FakeDrivers) -> None:
        self._drivers = drivers

    async def present(self, names: Sequence[str]) -> frozenset[str]:
        """Those that are there."""
        await self._drivers.call("present")
        return frozenset(names) & frozenset(self._drivers.world.links)

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:  # noqa: ARG002
        """All in one."""
        await self._drivers.call("apply_links")
        for veth in veths:
            for name in (veth.left, veth.right):
                if name not in self._drivers.world.links:
                    self._drivers.world.links.append(name)
        self._drivers.keep()

    async def remove(self, names: Sequence[str]) -> None:
        """All in one; with one end goes the other (which has the name that the project gives it)."""
        await self._drivers.call("remove_links")
        links = self._drivers.world.links
        for name in names:
            if name in links:
                at = links.index(name)
                del links[at : at + 2]  # pairs are made together, the left end first
        self._drivers.keep()


class FakeDisks:
    """See ``Disks``. The files of the project are left alone."""

    def __init__(self, drivers: FakeDrivers) -> None:
        self._drivers = drivers

    def _disk(self, path: Path) -> FakeDisk:
        return self._drivers.world.disks.setdefault(path.name, FakeDisk())

    async def link_project(self, project: str, folder: Path) -> None:
        """Note the folder."""
        await self._drivers.call("link_project", project)
        self._drivers.world.projects[project] = str(folder)
        self._drivers.keep()

    async def unlink_project(self, project: str, folder: Path) -> None:
        """Forget it."""
        await self._drivers.call("unlink_project", project)
        if self._drivers.world.projects.get(project) == str(folder):
            del self._drivers.world.projects[project]
        self._drivers.keep()

    async def pristine(self, path: Path) -> bool:
        """Whether no fake guest has had it."""
        await self._drivers.call("pristine", path.name)
        return not self._disk(path).written

    async def reset_overlay(self, path: Path) -> None:
        """Empty it."""
        await self._drivers.call("reset_overlay", path.name)
        self._drivers.world.disks[path.name] = FakeDisk(version=self._disk(path).version + 1)
        self._drivers.keep()

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Note it."""
        await self._drivers.call("set_frozen", path.name)
        self._disk(path).frozen = frozen
        self._drivers.keep()

    async def signature(self, path: Path) -> str:
        """Its version."""
        await self._drivers.call("signature", path.name)
        return str(self._disk(path).version)

    async def remove(self, path: Path) -> None:
        """Forget it; the file stays."""
        await self._drivers.call("remove_disk", path.name)
        self._drivers.world.disks.pop(path.name, None)
        self._drivers.keep()

    async def read_tail(self, path: Path, lines: int) -> str:
        """What a fake console shows."""
        await self._drivers.call("read_tail", path.name)
        return "\n".join(["(a fake console)"][:lines])


class FakeShell:
    """See ``Shell``. Commands are not run, but for a few that tests and users need."""

    def __init__(self, drivers: FakeDrivers) -> None:
        self._drivers = drivers

    def _domain(self, login: Login) -> FakeDomain:
        domain = self._drivers.world.domains.get(login.alias)
        if domain is None or not domain.started:
            raise DriverError(f"{login.guest} does not run")
        return domain

    async def wait_ready(self, login: Login, seconds: float) -> None:  # noqa: ARG002 (fakes are ready at once)
        """Ready when it runs."""
        await self._drivers.call("wait_ready", login.guest)
        self._domain(login)

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
        markers = self._drivers.world.disks.setdefault(self._domain(login).disk, FakeDisk()).markers
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
