"""What an action sees of a testbed's hosts. It can look, and change nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from kvmcompose.core.deployable import VethPair
from kvmcompose.core.once import once
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.iplink.interface import FoundLink
from kvmcompose.providers.libvirt.interface import DomainState, ObservedDomain
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
        self._marks: dict[str, Mapping[str, str]] = {}

    @once
    def names(self) -> Mapping[str, str]:
        """The names that guests have now, by their identities; of guests that are gone, those they had."""
        return {key: name for testbed in reversed(self.testbeds) for key, name in testbed.names.items()}

    @once
    def _identities(self) -> Mapping[str, str]:
        return {name: identity for identity, name in self.names.items()}

    def identity(self, guest: str) -> str:
        """Return the identity of a guest, which its domain and the store know it by."""
        return self._identities.get(guest, guest)

    def marks(self, kind: str) -> Mapping[str, str]:
        """Return the digests of what is known to have run in guests, by name."""
        if kind not in self._marks:
            marks = self.context.store.marks(self.context.project, kind)
            self._marks[kind] = {self.names.get(guest, guest): digest for guest, digest in marks.items()}
        return self._marks[kind]

    def put_mark(self, kind: str, guest: str, digest: str | None) -> None:
        """Remember what has run in a guest, by its name; None forgets it."""
        self._marks.pop(kind, None)
        self.context.store.put_mark(self.context.project, kind, self.identity(guest), digest)

    async def domains(self, host: HostDrivers) -> Mapping[str, DomainState]:
        """Return the project's domains on a host, by name, with the names that their guests have now."""

        async def ask() -> Mapping[str, DomainState]:
            found = await host.hypervisor.domains(self.context.project)
            return {
                name: msgspec.structs.replace(each, guest=self.names.get(each.guest, each.guest))
                for name, each in found.items()
            }

        return await self._once("domains", host, ask)

    async def observed(self, host: HostDrivers) -> Mapping[str, ObservedDomain]:
        """Return the project's domains on a host with what to compare, and the names of their guests now."""

        async def ask() -> Mapping[str, ObservedDomain]:
            found = await host.hypervisor.observe(self.context.project)
            return {
                name: msgspec.structs.replace(each, guest=self.names.get(each.guest, each.guest))
                for name, each in found.items()
            }

        return await self._once("observed", host, ask)

    async def bridges(self, host: HostDrivers) -> Mapping[str, FoundBridge]:
        """Return the project's Open vSwitch bridges on a host, by name."""
        return await self._once("bridges", host, lambda: host.switches.observe(self.context.project))

    def pairs(self, host: str) -> list[VethPair]:
        """Return the veth pairs that the project has, or had, on a host: nothing on one says whose it is."""
        plans = [each for testbed in reversed(self.testbeds) for each in testbed.network_plan.veths]
        earlier = self.context.deployed.links if self.context.deployed is not None else ()
        return list({pair.left: pair for pair in (*earlier, *plans) if pair.host == host}.values())

    async def links(self, host: HostDrivers) -> Mapping[str, FoundLink]:
        """Return the ends of the project's veth pairs that exist on a host, by name."""
        ends = {end for each in self.pairs(host.name) for end in (each.left, each.right)}
        return await self._once("links", host, lambda: host.links.observe(sorted(ends)))

    async def _once(self, what: str, host: HostDrivers, call: Callable[[], Awaitable[_T]]) -> _T:
        key = what, host.name
        if key not in self._seen:
            self._seen[key] = await call()
        return self._seen[key]  # type: ignore[no-any-return]
