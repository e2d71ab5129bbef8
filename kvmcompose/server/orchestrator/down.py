"""``down``: everything that bears the project's mark goes, whatever the server still knows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvmcompose.core.commands import Down
from kvmcompose.core.deployment import Fault, Level, Phase
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.model import Host
from kvmcompose.core.names import first_few
from kvmcompose.effects import private
from kvmcompose.effects.resources import schemas
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.transfer_plan import forget_sent
from kvmcompose.pipeline.stored import sound_hosts
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface.domains import TpmHolder
from kvmcompose.render.domain import console_log
from kvmcompose.render.platform import domain_uuid
from kvmcompose.server.action_log import ActionLog, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.golden import RECORD
from kvmcompose.server.orchestrator.kept_files import release_files
from kvmcompose.server.orchestrator.left_behind import disks_left
from kvmcompose.server.orchestrator.perform import perform
from kvmcompose.server.orchestrator.plan import TAKEN_DOWN, Blind, Differences, check_names, plan
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.runtimes import Runtime, runtime_of
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import KNOWN_HOSTS, LoadedTestbed


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
                self._sound = sound_hosts({"testbed_hosts": deployed.hosts}, schemas())
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

    async def run(self) -> Phase | None:
        """Return the phase, None for the one before.

        Raises StepFailedError when something could not be taken away; the rest is, all the same.
        """
        self._testbeds = await self._known()
        check_names(self._command.guests, {name for each in self._testbeds for name in each.guests})
        if self._command.guests and self._command.purge:
            raise RefusedError("--purge removes all disks, not those of some guests")
        hosts = await self._hosts()
        view = View(self._context, self._testbeds, hosts, inside=False)
        found = await plan(view, None)
        good = [name for name, host in hosts.items() if await self._look(name, host, found)]
        changes = [each for each in found.changes if each.found is not None and each.found.ref.host in good]
        if self._command.guests:
            changes = [each for each in changes if each.guest in self._command.guests]
        blind = [each for each in found.blind if self._matters(each)]
        for each in blind:
            self._log.fault(_remaining(each), stage="check")
        failed = await perform(Work(view, None, self._command, self._log, {}), changes)
        if failed or blind or len(good) != len(hosts):
            raise StepFailedError(f"{self._context.project} is not down altogether")
        if self._command.guests:
            self._note_taken_down(view)
            verb = "is" if len(self._command.guests) == 1 else "are"
            self._log.say(f"{first_few(self._command.guests)} {verb} down; disks are kept")
            return None
        if self._command.purge:
            await self._purge(hosts)
        store, project = self._context.store, self._context.project
        store.set_deployed(project, None)
        store.forget_marks(project)
        store.set_intents(project, {})
        await in_thread(release_files, self._context, self._log)
        self._log.say(f"{project} is down")
        return Phase.DOWN

    def _matters(self, blind: Blind) -> bool:
        """Return whether what did not answer may run what is to go."""
        return not self._command.guests or not blind.guests or bool({*blind.guests} & {*self._command.guests})

    def _note_taken_down(self, view: View) -> None:
        """Remember which guests are not up on purpose."""
        store, project = self._context.store, self._context.project
        intents = dict(store.marks(project, "intent"))
        intents |= {view.identity(name): TAKEN_DOWN for name in self._command.guests}
        store.set_intents(project, intents)

    async def _look(self, name: str, host: HostDrivers, found: Differences) -> bool:
        """Log what was found on a host; whether it answered, and has nothing of another main host."""
        try:
            with self._log.step("check", "check", host=name) as step:
                if name in found.silent:
                    raise found.silent[name]
                if host.blobs is not None:
                    await host.blobs.inspect(self._context.project, await self._context.read_home())
                if not any(each.ref.host == name and each.guest for each in found.found):
                    step.skip()
        except StepFailedError:
            return False
        return True

    async def _purge(self, hosts: dict[str, HostDrivers]) -> None:
        with self._log.step("purge", "disks") as step:
            paths = await in_thread(self._disks)
            # other hosts first: a golden image is on the main host, and what lies on it is not to outlive it
            for host in sorted(hosts.values(), key=lambda host: host.blobs is None):
                if host.blobs is not None:
                    await shielded(host.blobs.clear(self._context.project))
                    await in_thread(forget_sent, self._context.folder, host.name)
                    continue
                for path in paths:
                    await shielded(host.disks.remove(self._context.folder / path))
                await in_thread(forget_sent, self._context.folder, host.name)
            for name, host in hosts.items():
                for runtime in _runtimes_on(self._testbeds, name).values():
                    for kept in await runtime.purge(self._context, host):
                        step.say(kept, Level.WARNING)
            await self._purge_tpms(hosts.values())
            for path in (RECORD, KNOWN_HOSTS):
                await in_thread(private.remove, self._context.folder / path)
            for identity in {each for testbed in self._testbeds for each in testbed.names}:
                self._context.store.keep_snapshots(self._context.project, identity, [])
            step.say("disks, snapshots, copies of volumes and built images are removed")

    async def _purge_tpms(self, hosts: Iterable[HostDrivers]) -> None:
        """Remove the state of TPMs, from all hosts that their guests may have been on."""
        for holder in self._tpms():
            for host in hosts:
                await shielded(host.hypervisor.domains.forget_tpm(holder))

    def _tpms(self) -> Iterable[TpmHolder]:
        project = self._context.project
        found = {
            guest.state.domain: TpmHolder(
                name=guest.state.domain,
                uuid=domain_uuid(project, guest.state.identity),
                project=project,
                guest=guest.state.identity,
                arch=guest.domain.arch,
            )
            for testbed in self._testbeds
            for guest in testbed.guests.values()
            if guest.domain is not None and guest.domain.tpm
        }
        return found.values()

    def _disks(self) -> Iterable[str]:
        """Clones before what they lie on, so that a removal that is cut short leaves no clone of nothing."""
        guests = [guest for testbed in self._testbeds for guest in testbed.guests.values()]
        ordered = sorted(guests, key=lambda guest: guest.golden is None)
        disks = [path for guest in ordered for path in guest.disks]
        consoles = [console_log(guest.state.identity) for guest in guests]
        mains = {each.main_host.name for each in self._testbeds}
        left = [path for main in sorted(mains) for path in disks_left(self._context.folder, main)]
        return dict.fromkeys([*disks, *left, *consoles])


def _remaining(blind: Blind) -> Fault:
    """Return the fault for what cannot be taken away, as what runs it does not answer."""
    what = f": {first_few(blind.guests)} may remain there" if blind.guests else ""
    return Fault(step="check", host=blind.host, message=blind.error.message + what, hint=blind.error.hint)


def _runtimes_on(testbeds: Sequence[LoadedTestbed], host: str) -> Mapping[str, Runtime]:
    """Return the runtimes of the guests on a host, and of those that it makes something for."""
    runtimes = {}
    for each in testbeds:
        is_main = each.main_host.name == host
        for guest in each.guests.values():
            run = guest.run
            if run is not None and (guest.state.testbed_host == host or (is_main and run.main_host_files)):
                runtimes[run.runtime] = runtime_of(guest)
    return runtimes
