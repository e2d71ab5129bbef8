"""``down``: everything that bears the project's mark goes, whatever the server still knows of it."""

from __future__ import annotations

from collections.abc import Iterable

from kvmcompose.core.deployment import Down, Level, Phase
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.model import Host
from kvmcompose.effects import private
from kvmcompose.effects.resources import schemas
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.transfer_plan import forget_sent
from kvmcompose.pipeline.stored import sound_hosts
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import DomainState
from kvmcompose.render.domain import console_log
from kvmcompose.server.action_log import ActionLog, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.golden import RECORD
from kvmcompose.server.orchestrator.stages import Job, shielded, together
from kvmcompose.server.orchestrator.testbed import KNOWN_HOSTS, LoadedTestbed

#: Guests that shut down at a time, on one host.
SHUT_DOWNS = 16


class TakeDown:
    """One ``down``."""

    def __init__(self, context: Context, command: Down, log: ActionLog) -> None:
        self._context = context
        self._command = command
        self._log = log
        #: The hosts of what was brought up, where more of it is not as a build writes it.
        self._sound: dict[str, Host] = {}
        self._testbeds: list[LoadedTestbed] = []

    async def _known(self) -> list[LoadedTestbed]:
        """What was brought up, and what lies in the folder: either may name something that is there."""
        found = []
        deployed = await in_thread(lambda: self._context.deployed)
        if deployed is not None:
            try:
                found.append(await self._context.read_current())
            except KvmComposeError as error:
                self._sound = sound_hosts(deployed.state, schemas())
                hosts = ", ".join(self._sound) or "this host"
                self._log.say(
                    f"{error.message}: what was brought up is found by the project's name, on {hosts}",
                    Level.WARNING,
                )
        try:
            found.append(await self._context.read_built())
        except KvmComposeError:
            if not found and not self._sound:
                self._log.say(
                    "cannot read state.json: looking for objects with the project's name",
                    Level.WARNING,
                )
        return found

    async def _hosts(self) -> dict[str, HostDrivers]:
        """Where it was brought up comes before where it would be now, but for how to get in there."""
        hosts = dict(self._sound)
        for testbed in self._testbeds:
            for name, host in testbed.state.testbed_hosts.items():
                if name not in hosts or hosts[name].ip == host.ip:
                    hosts[name] = host
        if not hosts:
            hosts = {"main": Host(name="main", ip="127.0.0.1", is_main_host=True)}
        abandoned = [name for name in self._command.abandon if name in hosts]
        if len(abandoned) != len(self._command.abandon) or any(
            hosts[name].is_main_host for name in abandoned
        ):
            others = ", ".join(name for name, host in hosts.items() if not host.is_main_host) or "none"
            raise RefusedError(
                "only other hosts of the testbed can be abandoned", hint=f"there are: {others}"
            )
        for name in abandoned:
            del hosts[name]
            await in_thread(forget_sent, self._context.folder, name)
            self._log.say(f"{name} is abandoned: whatever is there stays there", Level.WARNING)
        return {name: self._context.host(host) for name, host in hosts.items()}

    async def run(self) -> Phase:
        """Raises StepFailedError when something could not be taken away; the rest is, all the same."""
        self._testbeds = await self._known()
        hosts = await self._hosts()
        jobs = [self._host_job(name, host) for name, host in hosts.items()]
        results = await together(jobs, limit=len(jobs))
        if not all(results):
            raise StepFailedError(f"{self._context.project} is not down altogether")
        if self._command.purge:
            await self._purge(hosts)
        self._context.store.set_deployed(self._context.project, None)
        self._log.say(f"{self._context.project} is down")
        return Phase.DOWN

    def _host_job(self, name: str, host: HostDrivers) -> Job:
        async def job() -> None:
            with self._log.step("guests", "look", host=name) as step:
                if host.blobs is not None:  # refuses what is another main host's
                    await host.blobs.inspect(self._context.project, await self._context.read_home())
                domains = await host.hypervisor.domains(self._context.project)
                if not domains:
                    step.skip()
            stopped = await together(
                [self._guest_job(name, host, each) for each in domains.values()], limit=SHUT_DOWNS
            )
            if not all(stopped):  # what guests are plugged into stays as long as they do
                raise StepFailedError("guests are left")
            await self._network(name, host)
            with self._log.step("network", "project-folder", host=name):
                for folder in dict.fromkeys((self._context.folder_on(host), self._context.location)):
                    await shielded(host.disks.unlink_project(self._context.project, folder))

        return job

    def _guest_job(self, name: str, host: HostDrivers, domain: DomainState) -> Job:
        async def job() -> None:
            with self._log.step("guests", f"stop:{domain.guest}", guest=domain.guest, host=name) as step:
                await self._keep_snapshots(host, domain)
                if domain.state in ("running", "paused"):
                    limit = self._command.timeout
                    if domain.state == "paused" or not await host.hypervisor.shut_down_domain(
                        domain.name, limit
                    ):
                        if domain.state == "running":
                            step.say(f"did not shut down within {limit:g} s, is switched off", Level.WARNING)
                        await shielded(host.hypervisor.destroy_domain(domain.name))
                await shielded(host.hypervisor.undefine_domain(domain.name))

        return job

    async def _keep_snapshots(self, host: HostDrivers, domain: DomainState) -> None:
        """Libvirt forgets snapshots with the domain; their data stays in the disk, to be used again."""
        snapshots = await host.hypervisor.snapshots(domain.name)
        self._context.store.keep_snapshots(
            self._context.project, domain.guest, [(each.name, each.xml) for each in snapshots]
        )

    async def _network(self, name: str, host: HostDrivers) -> None:
        project = self._context.project
        with self._log.step("network", "bridges", host=name):
            found = await host.switches.bridges(project)
            await shielded(host.switches.remove(sorted(found)))
        with self._log.step("network", "links", host=name):
            ends = {
                veth.left
                for testbed in self._testbeds
                for veth in testbed.network_plan.veths
                if veth.host == name
            }
            present = await host.links.present(sorted(ends))
            # ours are on no bridge any more: what is has the name only
            others = await host.switches.foreign_ports(project, sorted(present))
            await shielded(host.links.remove(sorted(present - frozenset(others))))
        with self._log.step("network", "networks", host=name):
            for network in await host.hypervisor.networks(project):
                await shielded(host.hypervisor.remove_network(network))

    async def _purge(self, hosts: dict[str, HostDrivers]) -> None:
        with self._log.step("purge", "disks") as step:
            paths = self._disks()
            # other hosts first: a golden image is on the main host, and what lies on it is not to outlive it
            for host in sorted(hosts.values(), key=lambda host: host.blobs is None):
                if host.blobs is not None:
                    await shielded(host.blobs.clear(self._context.project))
                    await in_thread(forget_sent, self._context.folder, host.name)
                    continue
                for path in paths:
                    await shielded(host.disks.remove(self._context.folder / path))
            for path in (RECORD, KNOWN_HOSTS):
                await in_thread(private.remove, self._context.folder / path)
            names = {name for testbed in self._testbeds for name in testbed.guests}
            for name in names:
                self._context.store.keep_snapshots(self._context.project, name, [])
            step.say("disks are removed; the next build makes new ones")

    def _disks(self) -> Iterable[str]:
        """Clones before what they lie on, so that a removal that is cut short leaves no clone of nothing."""
        guests = [guest for testbed in self._testbeds for guest in testbed.guests.values()]
        ordered = sorted(guests, key=lambda guest: guest.golden is None)
        disks = [guest.run.disk for guest in ordered if guest.run is not None and guest.run.disk is not None]
        consoles = [console_log(guest.name) for guest in guests]
        return dict.fromkeys([*disks, *consoles])
