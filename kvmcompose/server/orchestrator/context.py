"""What all commands of a deployment work with."""

from __future__ import annotations

import atexit
import functools
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from kvmcompose.core.deployment import Deployment
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.model import Host
from kvmcompose.core.names import near_names
from kvmcompose.core.once import once
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.server_places import this_machine
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import HOSTED
from kvmcompose.providers.drivers import Drivers, HostDrivers
from kvmcompose.providers.guest.interface import Gate, GuestShell
from kvmcompose.providers.netns.interface import ManagementPorts
from kvmcompose.server.orchestrator.agent_addresses import Addresses, AgentAddresses, confirmed, told
from kvmcompose.server.orchestrator.built_testbed import read_testbed
from kvmcompose.server.orchestrator.deployed import Deployed, decode_deployed
from kvmcompose.server.orchestrator.health_memory import HealthMemory
from kvmcompose.server.orchestrator.project_folder import ProjectFolder
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.people import Person
from kvmcompose.server.store import ADDRESS_MARK, Store


class _ManagementGate(msgspec.Struct, frozen=True):
    """Connects to the guests of a management port. Equal gates have the same port."""

    ports: ManagementPorts
    namespace: str

    async def connect(self, address: str, port: int) -> socket.socket:
        """See ``Gate``."""
        return await self.ports.connect(self.namespace, address, port)


@functools.cache
def owner_files(uid: int) -> OwnerFiles:
    """The files of a user; one reader for all that is done for them, as long as the server is there."""
    files = OwnerFiles(uid)
    atexit.register(files.close)
    return files


class Context:
    """One deployment, and everything to act on it with. ``owner`` is whose files it is made of."""

    def __init__(
        self,
        deployment: Deployment,
        owner: Person,
        drivers: Drivers,
        store: Store,
        health: HealthMemory | None = None,
        agents: AgentAddresses | None = None,
    ) -> None:
        self.deployment = deployment
        self.owner = owner
        self.project = deployment.name
        #: The project folder.
        self.location = Path(deployment.project_location)
        #: A user with whose rights the folder is read, as root works for them and they are no administrator.
        self.member = owner_files(owner.uid) if os.geteuid() == 0 and not owner.is_admin else None
        #: Where the main host has what it runs, and the server what it keeps: root's own place for a member.
        self.folder = self.location if self.member is None else HOSTED / self.project
        self.drivers = drivers
        self.store = store
        #: What is known of the health of guests, of all deployments.
        self.health = health or HealthMemory()
        #: What guest agents have told, of all deployments.
        self.agents = agents or AgentAddresses()
        self._noted = store.deployed(self.project)
        self._intents = store.marks(self.project, "intent")

    @once
    def deployed(self) -> Deployed | None:
        """What was brought up, None when nothing is."""
        return decode_deployed(self._noted)

    @once
    def current(self) -> LoadedTestbed:
        """What is up or, when nothing is, what lies in the project folder. Raises RefusedError."""
        if self.deployed is None:
            return self.built
        try:
            testbed = self.deployed.testbed(self.files)
        except KvmComposeError as error:
            raise RefusedError(
                f"what was brought up is refused: {error.message}", hint="take it down: kvm-compose down"
            ) from error
        testbed.intents = self.intents(testbed)
        return testbed

    @once
    def built(self) -> LoadedTestbed:
        """What lies in the project folder. Raises RefusedError."""
        testbed = read_testbed(self.files)
        if testbed.project != self.project:
            raise RefusedError(
                f"{self.location} holds the testbed {testbed.project!r}, not {self.project!r}",
                hint=f"--project-name {testbed.project}",
            )
        testbed.intents = self.intents(testbed)
        return testbed

    # what these have read stays: they are called before anything else, and not on the event loop

    async def read_current(self) -> LoadedTestbed:
        """``current``, read in a thread."""
        return await in_thread(lambda: self.current)

    async def read_built(self) -> LoadedTestbed:
        """``built``, read in a thread; ``deployed`` with it."""
        return await in_thread(lambda: (self.deployed, self.built)[1])

    async def read_home(self) -> str:
        """``home``, found in a thread."""
        return await in_thread(lambda: self.home)

    @property
    def shell(self) -> GuestShell:
        """The way into guests."""
        return self.drivers.shell()

    @once
    def home(self) -> str:
        """The project as other hosts know it: several main hosts may have one of this name."""
        if self.member is not None:
            return f"{this_machine()}/{self.member.uid}:{self.location}"
        return f"{this_machine()}:{self.folder.resolve()}"

    def intents(self, testbed: LoadedTestbed) -> dict[str, str]:
        """What guests were asked to be, by name, where that is not to run."""
        return {
            guest.name: self._intents[guest.state.identity]
            for guest in testbed.guests.values()
            if guest.state.identity in self._intents
        }

    @once
    def files(self) -> ProjectFolder:
        """The project's files, read with its owner's rights."""
        return ProjectFolder(self.location, self.folder, self.member)

    def host(self, host: Host) -> HostDrivers:
        """The drivers of a host."""
        if host.identity_file is not None:
            key = self.files.key_path(host.identity_file)
            host = msgspec.structs.replace(host, identity_file=str(key))
        return self.drivers.host(host, self.member)

    def folder_on(self, host: HostDrivers) -> Path:
        """Where the project lies on a host."""
        return self.folder if host.blobs is None else HOSTED / self.project

    def host_of(self, guest: LoadedGuest, testbed: LoadedTestbed) -> HostDrivers:
        """The drivers of the host that a guest lies on."""
        return self.host(testbed.state.testbed_hosts[guest.state.testbed_host])

    def hosts(self, testbed: LoadedTestbed) -> Mapping[str, HostDrivers]:
        """The drivers of all hosts."""
        return {name: self.host(host) for name, host in testbed.state.testbed_hosts.items()}

    async def address(self, guest: LoadedGuest, testbed: LoadedTestbed) -> str | None:
        """A guest's address; None if it cannot be reached, or has none yet."""
        return (await self.addresses([guest], testbed))[guest.name]

    async def addresses(
        self,
        guests: Collection[LoadedGuest],
        testbed: LoadedTestbed,
        leases: Mapping[str, str] | None = None,
    ) -> dict[str, str | None]:
        """The addresses of guests, by name, as ``address``. The network is asked once, if at all."""
        found = {guest.name: guest.address for guest in guests}
        asking = [guest for guest in guests if guest.address == "dynamic"]
        network = testbed.network_plan.network
        if network is None or not asking:
            return found
        networks = self.host(testbed.state.testbed_hosts[network.host]).hypervisor.networks
        given = leases if leases is not None else await networks.leases(network.name)
        known = self.store.marks(self.project, ADDRESS_MARK)
        reachable = testbed.network_plan.reachable

        async def leased(guest: LoadedGuest) -> str | None:
            identity = guest.state.identity
            macs = [nic.mac.lower() for nic in guest.state.interfaces if nic.bridge in reachable]
            address = next((given[mac] for mac in macs if mac in given), None)
            before = known.get(identity)
            if address is None and before is not None:
                # the network was made again, and the guest has not asked since
                answers = await side_by_side(networks.answers(mac, before) for mac in macs)
                return before if any(answers) else None
            if address != before:
                self.store.put_mark(self.project, ADDRESS_MARK, identity, address)
            return address

        names = [guest.name for guest in asking]
        return found | dict(zip(names, await side_by_side(map(leased, asking)), strict=True))

    async def told_address(self, guest: LoadedGuest, testbed: LoadedTestbed) -> str | None:
        """Return where a guest is that has no lease, by its guest agent, if its host finds it there.

        Raises DriverError where the agent does not answer.
        """
        if guest.domain is None or guest.address != "dynamic":
            return None
        addresses = await told(self.host_of(guest, testbed).hypervisor.agents, guest.state.domain)
        return await self._confirmed(guest, testbed, addresses)

    async def told_addresses(
        self, guests: Sequence[LoadedGuest], testbed: LoadedTestbed
    ) -> dict[str, str | None]:
        """Return the same of several guests, by name, as far as it is known within a second."""
        asked = [each for each in guests if each.domain is not None]
        found = await self.agents.of(
            (self.host_of(each, testbed).hypervisor.agents, each.state.domain) for each in asked
        )
        return {
            each.name: await self._confirmed(each, testbed, found.get(each.state.domain, {}))
            for each in asked
        }

    async def _confirmed(
        self, guest: LoadedGuest, testbed: LoadedTestbed, addresses: Addresses
    ) -> str | None:
        network = testbed.network_plan.network
        if network is None or not addresses:
            return None
        here = self.host(testbed.state.testbed_hosts[network.host]).hypervisor.networks
        reachable = testbed.network_plan.reachable
        macs = [nic.mac.lower() for nic in guest.state.interfaces if nic.bridge in reachable]
        return await confirmed(here, addresses, macs, network.subnet)

    def gate(self, guest: LoadedGuest, testbed: LoadedTestbed) -> Gate | None:
        """The way through a guest's management port; None for a guest without one."""
        port = guest.management
        if port is None:
            return None
        host = self.host(testbed.state.testbed_hosts[port.host])
        return _ManagementGate(host.management, port.namespace)

    def guest(self, testbed: LoadedTestbed, name: str) -> LoadedGuest:
        """A guest that runs, by name. Raises RefusedError."""
        found = testbed.guests.get(name)
        if found is None:
            raise RefusedError(f"there is no guest {name!r}", hint=near_names(name, testbed.guests))
        if found.run is None:
            kind = found.state.kind
            raise RefusedError(f"{name} is a {kind} guest: no runtime runs these")
        return found
