"""What an action sees of a testbed's hosts. It can look, and change nothing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from kvmcompose.core.chassis import Remotes
from kvmcompose.core.deployable import VethPair
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import Instance, Usage
from kvmcompose.core.model import Host
from kvmcompose.core.once import once
from kvmcompose.core.ovn_hosts import ChassisSpec
from kvmcompose.hosts.blob_store import Inventory
from kvmcompose.hosts.errors import DriverError, HostLostError, RuntimeSilentError
from kvmcompose.hosts.volume_tree import VolumeTree
from kvmcompose.providers.drivers import HostDrivers, OvnDrivers
from kvmcompose.providers.iplink.interface import FoundLink
from kvmcompose.providers.libvirt.interface.domains import ObservedDomain
from kvmcompose.providers.libvirt.interface.networks import FoundNetwork
from kvmcompose.providers.ovs.chassis import FoundChassis
from kvmcompose.providers.ovs.interface import FoundBridge
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.disk_places import DiskPlaces, find_places
from kvmcompose.server.orchestrator.distribute import Distribution
from kvmcompose.server.orchestrator.golden import GoldenImages
from kvmcompose.server.orchestrator.runtimes import Runtime, answer_of, runtimes, runtimes_of
from kvmcompose.server.orchestrator.testbed import LoadedTestbed
from kvmcompose.server.orchestrator.volumes import HostVolumes, read_volumes, volumes_on

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
        abandoned: Sequence[str] = (),
        *,
        inside: bool = True,
    ) -> None:
        """Without ``files``, neither files nor golden images are looked at: that takes long.

        Without ``inside``, no guest is entered.
        What the ``abandoned`` hosts have is given up.
        """
        self.context = context
        self.testbeds = testbeds
        self.deployed = next((each for each in testbeds if not each.has_files), None)
        self.hosts = hosts
        self.files = files
        self.inside = inside
        self._abandoned = abandoned
        self.golden = GoldenImages(context, files.testbed, files) if files is not None else None
        #: What runs guests and did not answer, by host and runtime.
        self.blind: dict[tuple[str, str], KvmComposeError] = {}
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

    @once
    def _runtimes(self) -> Mapping[str, Runtime]:
        return runtimes_of(self.testbeds)

    async def instances(self, host: HostDrivers) -> Sequence[Instance]:
        """Return what runtimes have of the project on a host, with the names that its guests have now.

        One that does not answer has nothing: ``instances_of`` says so.
        """
        found: list[Instance] = []
        for name in self._runtimes:
            with suppress(RuntimeSilentError):
                found += (await self.instances_of(name, host)).values()
        return found

    async def measured(self, host: HostDrivers) -> Sequence[Instance]:
        """Return the same as ``instances``, with what they use."""
        found = []
        for name in self._runtimes:
            instances: Mapping[str, Instance] = {}
            usage: Mapping[str, Usage] = {}
            with suppress(RuntimeSilentError):
                instances = await self.instances_of(name, host)
            with suppress(KvmComposeError):  # what is not known is not shown
                usage = await runtimes()[name].usage(self.context, host) if instances else {}
            found += [_with(each, usage.get(each.name)) for each in instances.values()]
        return found

    async def instances_of(self, runtime: str, host: HostDrivers) -> Mapping[str, Instance]:
        """Return those of one runtime, by their names on the host. Raises RuntimeSilentError."""

        async def ask() -> Mapping[str, Instance]:
            try:
                found = await self._asked(
                    runtime, host, lambda: runtimes()[runtime].instances(self.context, host)
                )
            except HostLostError:
                raise
            except DriverError as error:
                silent = RuntimeSilentError(error.message, hint=error.hint)
                self.blind[host.name, runtime] = silent
                raise silent from error
            return {
                name: msgspec.structs.replace(each, guest=self.names.get(each.guest, each.guest))
                for name, each in found.items()
            }

        return await self._once(f"instances of {runtime}", host.name, ask)

    async def observed(self, host: HostDrivers) -> Mapping[str, ObservedDomain]:
        """Return the project's domains on a host with what to compare, and the names of their guests now."""

        async def ask() -> Mapping[str, ObservedDomain]:
            project = self.context.project
            found = await self._asked("libvirt", host, lambda: host.hypervisor.domains.observe(project))
            return {
                name: msgspec.structs.replace(each, guest=self.names.get(each.guest, each.guest))
                for name, each in found.items()
            }

        return await self._once("observed", host.name, ask)

    async def bridges(self, host: HostDrivers) -> Mapping[str, FoundBridge]:
        """Return the project's Open vSwitch bridges on a host, by name."""
        shared = self.integration_bridges(host.name)
        return {name: each for name, each in (await self.switches(host)).items() if name not in shared}

    async def switches(self, host: HostDrivers) -> Mapping[str, FoundBridge]:
        """Return the bridges that guests of the project can be on: its own, and OVN's integration bridge."""
        also = self.integration_bridges(host.name)
        return await self._once(
            "bridges", host.name, lambda: host.switches.observe(self.context.project, also)
        )

    def integration_bridges(self, host: str) -> Collection[str]:
        """Return the bridges of OVN on a host, which are no project's."""
        return {each.bridge for each in self._specs(ChassisSpec, host)}

    def _specs(self, kind: type[_T], host: str | None = None) -> list[_T]:
        """Return the specifications of resources of a type, of what is built and of what was brought up."""
        return [
            each.spec
            for testbed in self.testbeds
            for each in testbed.network_plan.resources
            if isinstance(each.spec, kind) and host in (None, each.ref.host)
        ]

    @once
    def ovn(self) -> OvnDrivers | None:
        """The databases of OVN, None where nothing of the project can be in them."""
        for testbed in self.testbeds:
            if testbed.network_plan.databases is not None:
                databases = self._databases(testbed.network_plan.databases)
                return self.context.drivers.ovn(testbed.main_host, databases)
        if self.testbeds:
            return None
        # what was brought up is not known: look in the OVN of this host, if there is one
        main = Host(name="main", ip="127.0.0.1", is_main_host=True)
        drivers = self.context.drivers.ovn(main, Remotes())
        return drivers if drivers.northbound.is_there() else None

    def _databases(self, given: Remotes) -> Remotes:
        """Return databases with the paths of their keys. Raises DriverError where a member names any."""
        if given == Remotes():
            return given
        if not self.context.owner.is_admin:
            raise DriverError(
                "only an administrator's testbed can use another OVN than that of the main host",
                hint="remove ovn_northbound and ovn_southbound from kvm-compose-config.json",
            )
        keys = ("ovn_private_key", "ovn_certificate", "ovn_ca_certificate")
        paths = {key: path for key in keys if (path := getattr(given, key))}
        found = {key: str(self.context.files.key_path(path)) for key, path in paths.items()}
        return msgspec.structs.replace(given, **found)

    async def chassis(self, host: HostDrivers) -> FoundChassis:
        """Return a host's settings for OVN."""
        return await self._once("chassis", host.name, host.chassis.observe)

    def chassis_names(self, chassis: Mapping[str, str]) -> Mapping[str, str]:
        """Return the names that rows have for chassis, by those that these have.

        ``chassis`` are hosts, by the names that they have in OVN.
        """
        wanted = {host: each.name for host in chassis.values() for each in self._specs(ChassisSpec, host)[:1]}
        return {name: wanted.get(host, host) for name, host in chassis.items() if name}

    async def networks(self, host: HostDrivers) -> Mapping[str, FoundNetwork]:
        """Return the project's libvirt networks on a host, by name."""
        call = functools.partial(host.hypervisor.networks.observe, self.context.project)
        return await self._once("networks", host.name, lambda: self._asked("libvirt", host, call))

    async def leases(self, host: HostDrivers, network: str) -> Mapping[str, str]:
        """Return the addresses that a libvirt network has assigned, by MAC address."""
        call = functools.partial(host.hypervisor.networks.leases, network)
        return await self._once(f"leases of {network}", host.name, call)

    def pairs(self, host: str) -> list[VethPair]:
        """Return the veth pairs that the project has, or had, on a host: nothing on one says whose it is."""
        plans = [each for testbed in reversed(self.testbeds) for each in testbed.network_plan.veths]
        earlier = self.context.deployed.links if self.context.deployed is not None else ()
        # a connection that was turned round is the same pair
        ends = {frozenset((pair.left, pair.right)): pair for pair in (*earlier, *plans) if pair.host == host}
        return list(ends.values())

    async def links(self, host: HostDrivers) -> Mapping[str, FoundLink]:
        """Return the ends of the project's veth pairs that exist on a host, by name."""
        ends = {end for each in self.pairs(host.name) for end in (each.left, each.right)}
        ports = [each for testbed in self.testbeds for each in testbed.network_plan.management_ports]
        ends |= {each.name for each in ports if each.host == host.name}
        return await self._once("links", host.name, lambda: host.links.observe(sorted(ends)))

    async def inventory(self, host: HostDrivers) -> Inventory:
        """Return what a host has of the project's files. Raises DriverError, also for one without a store."""
        blobs = host.blobs
        if blobs is None:
            raise DriverError(f"{host.name} has no store: the project folder is there")
        home = await self.context.read_home()
        return await self._once("inventory", host.name, lambda: blobs.inspect(self.context.project, home))

    async def sent_volumes(self, host: HostDrivers) -> Mapping[str, VolumeTree]:
        """Return what a host was sent of the volumes of containers. Raises DriverError."""
        store = host.volumes
        if store is None:
            return {}
        return await self._once("sent volumes", host.name, lambda: store.look(self.context.project))

    async def volumes(self, host: HostDrivers) -> HostVolumes:
        """Return the volumes of containers that a host is to have, where files are looked at."""
        if self.files is None or not volumes_on(self.files.testbed, host.name):
            return HostVolumes()
        testbed = self.files.testbed
        sent = await self.sent_volumes(host)
        return await self._once("volumes", host.name, lambda: read_volumes(testbed, host.name, sent))

    async def disks(self) -> DiskPlaces:
        """Return where disks are that are not where their guests are placed."""
        files = self.files
        assert files is not None  # noqa: S101 (asked for only where files are looked at)

        async def find() -> DiskPlaces:
            found = await find_places(self, files.main, files.testbed, self._abandoned)
            files.arrive(found)
            return found

        return await self._once("disks", "", find)

    async def _asked(
        self, runtime: str, host: HostDrivers, ask: Callable[[], Coroutine[Any, Any, Mapping[str, _T]]]
    ) -> Mapping[str, _T]:
        """Ask a host, unless it has nothing of a runtime and need not."""
        return await answer_of(runtime, self.testbeds, host.name, ask, {})

    async def _once(self, what: str, host: str, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Call it once, also when several ask for it at the same time."""
        key = what, host
        if key not in self._seen:
            self._seen[key] = asyncio.ensure_future(call())
        return await self._seen[key]  # type: ignore[no-any-return]


def _with(instance: Instance, usage: Usage | None) -> Instance:
    """Return an instance with what it uses, where that is known."""
    if usage is None:
        return instance
    return msgspec.structs.replace(instance, cpu_seconds=usage.cpu_seconds, memory_mb=usage.memory_mb)
