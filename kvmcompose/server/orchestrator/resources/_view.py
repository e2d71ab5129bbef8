"""What an action sees of a testbed's hosts. It can look, and change nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import DomainState
from kvmcompose.providers.ovs.interface import FoundBridge
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.distribute import Distribution
from kvmcompose.server.orchestrator.golden import GoldenImages
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

_T = TypeVar("_T")


class View:
    """One look at the hosts of a project: each host is asked once for each kind of thing.

    ``testbeds`` describe the project: what is built now, and what was brought up (``deployed``). Some things
    can be found by their names only, which come from there.
    """

    def __init__(
        self,
        context: Context,
        testbeds: Sequence[LoadedTestbed],
        hosts: Mapping[str, HostDrivers],
        files: Distribution | None = None,
    ) -> None:
        """Without ``files``, neither files nor golden images are looked at: that takes long."""
        self.context = context
        self.testbeds = testbeds
        self.deployed = next((each for each in testbeds if not each.has_files), None)
        self.hosts = hosts
        self.files = files
        self.golden = GoldenImages(context, files.testbed, files) if files is not None else None
        self._seen: dict[tuple[str, str], Any] = {}

    def marks(self, kind: str) -> Mapping[str, str]:
        """Return the digests of what is known to have run in guests, by name."""
        return self.context.store.marks(self.context.project, kind)

    async def domains(self, host: HostDrivers) -> Mapping[str, DomainState]:
        """Return the project's domains on a host, by name."""
        return await self._once("domains", host, lambda: host.hypervisor.domains(self.context.project))

    async def bridges(self, host: HostDrivers) -> Mapping[str, FoundBridge]:
        """Return the project's Open vSwitch bridges on a host, by name."""
        return await self._once("bridges", host, lambda: host.switches.observe(self.context.project))

    async def _once(self, what: str, host: HostDrivers, call: Callable[[], Awaitable[_T]]) -> _T:
        key = what, host.name
        if key not in self._seen:
            self._seen[key] = await call()
        return self._seen[key]  # type: ignore[no-any-return]
