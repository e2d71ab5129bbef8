"""A host that is not there: every verb works, nothing is touched. To try pipelines out, and to break them.

Each call has a name, ``start_domain:web``: the method and what it is about. Patterns of such names (as of
the shell: ``start_domain:*``) can be made to fail, always or a number of times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kvmcompose.core.model import Host
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.server.drivers import DriverError, HostDrivers, Login, OnLine
from kvmcompose.server.drivers.fake.files import FakeDepot, FakeDisks
from kvmcompose.server.drivers.fake.hypervisor import FakeHypervisor
from kvmcompose.server.drivers.fake.network import FakeCaptures, FakeLinks, FakeSwitches
from kvmcompose.server.drivers.fake.world import MAIN, Failure, FakeDisk, FakeDomain, FakeHost, World, Worlds

__all__ = ["Failure", "FakeDrivers", "World"]


class FakeDrivers(Worlds):
    """The drivers of hosts that are not there. ``path`` is where their worlds are kept, None: nowhere."""

    name = "fake"

    def host(self, host: Host, member: OwnerFiles | None = None) -> HostDrivers:
        """The drivers of one host."""
        fake = FakeHost(self, MAIN if host.is_main_host else host.name)
        return HostDrivers(
            name=host.name,
            hypervisor=FakeHypervisor(fake, host.libvirt_uri),
            switches=FakeSwitches(fake),
            links=FakeLinks(fake),
            disks=FakeDisks(fake),
            captures=FakeCaptures(fake),
            depot=None if host.is_main_host and member is None else FakeDepot(fake),
        )

    def shell(self) -> FakeShell:
        """The way into guests."""
        return FakeShell(self)

    async def close(self) -> None:
        """Nothing is held."""


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
