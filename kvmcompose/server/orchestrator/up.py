"""``up``: each stage in order, each step of it once more if need be; what is there already is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from kvmcompose.core.deployment import Fault, Level, Phase, Up
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.names import first_few
from kvmcompose.effects.files import expand
from kvmcompose.effects.keys import default_keys
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.transfer_plan import read_sent
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import DomainState, HypervisorFacts
from kvmcompose.server.action_log import ActionLog, Refusals, RunningStep, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.differences import differences
from kvmcompose.server.orchestrator.distribute import Distribution
from kvmcompose.server.orchestrator.golden import GoldenImages
from kvmcompose.server.orchestrator.network import NetworkSetup
from kvmcompose.server.orchestrator.privileges import check_state, domain_xml, network_xml
from kvmcompose.server.orchestrator.scripts import has_run, note_run, run_script
from kvmcompose.server.orchestrator.stages import Job, shielded, side_by_side, together
from kvmcompose.server.orchestrator.start import Starter
from kvmcompose.server.orchestrator.testbed import Deployed, LoadedGuest, LoadedTestbed

#: Guests that boot at a time, for each CPU of their host: a boot under emulation keeps a CPU busy.
BOOTS_PER_CPU = {"kvm": 4, "qemu": 2}
#: Scripts and other work inside guests at a time.
SCRIPTS = 16


class BringUp:
    """One ``up``."""

    def __init__(self, context: Context, testbed: LoadedTestbed, command: Up, log: ActionLog) -> None:
        self._context = context
        self._command = command
        self._log = log
        self._testbed = testbed
        self._hosts = context.hosts(self._testbed)
        self._facts: dict[str, HypervisorFacts] = {}
        self._domains: dict[str, DomainState] = {}
        self._failed: set[str] = set()
        self._network = NetworkSetup(context, self._testbed, log, self._hosts)
        self._starter = Starter(context, self._testbed, log)
        self._distribution = Distribution(context, self._testbed, log, provision=command.provision)
        self._golden = GoldenImages(context, self._testbed, log, self._starter, self._distribution)

    async def run(self) -> Phase:
        """Raises RefusedError when nothing was changed, StepFailedError when something failed."""
        await in_thread(self._check_privileges)
        await self._check()
        if await self._is_up():
            count = len(self._testbed.runnable)
            self._log.say(f"{self._context.project} is up already: {count} guests run, nothing to do")
            return self._end()
        store = self._context.store
        store.set_deployed(self._context.project, await in_thread(lambda: self._to_be_deployed().encode()))
        await self._bring_network_up()
        await self._golden_images()
        await self._distribute()
        await self._guests()
        await self._scripts("setup", lambda guest: guest.run.setup_scripts if guest.run else ())
        await self._scripts("run", lambda guest: guest.run.run_scripts if guest.run else ())
        if self._failed:
            raise StepFailedError(f"{', '.join(sorted(self._failed))} did not come up")
        self._log.say(f"{self._context.project} is up: {len(self._testbed.runnable)} guests run")
        return self._end()

    def _end(self) -> Phase:
        """Raise StepFailedError, with a fault for each guest of a type that cannot run yet."""
        for guest in self._testbed.unsupported:
            self._log.fault(
                Fault(
                    step=f"start:{guest.name}",
                    guest=guest.name,
                    host=guest.state.testbed_host,
                    message=f"{guest.state.kind} guests cannot run yet",
                    hint="the other guests are up",
                )
            )
        if self._testbed.unsupported:
            raise StepFailedError(
                f"{first_few([guest.name for guest in self._testbed.unsupported])} cannot run"
            )
        return Phase.UP

    # -- before anything is changed

    def _check_privileges(self) -> None:
        """All at once, before any host is asked; each text is checked again when it is used."""
        context, testbed = self._context, self._testbed
        network_xml(context, testbed)
        if not context.owner.is_admin:
            check_state(context, testbed)
            for guest in testbed.guests.values():
                if guest.run is not None:
                    domain_xml(context, testbed, guest)

    async def _check(self) -> None:
        """All that could be in the way, on all hosts at once. Raises Refusals."""
        reasons: list[tuple[str, str | None]] = []
        with self._log.step("check", "check") as step:
            sent = await in_thread(read_sent, self._testbed.folder)
            for name in sorted(sent.keys() - self._hosts.keys()):
                step.say(
                    f"{name} is no host of the testbed any more; disks that it was sent may be there still",
                    Level.WARNING,
                )
            found = await side_by_side(self._check_host(name, host) for name, host in self._hosts.items())
            reasons += [reason for each in found for reason in each]
            if not reasons:
                self._domains = await self._context.domains(self._testbed)
                reasons += self._check_guests(step)
                reasons += await self._check_key()
                reasons += await in_thread(self._check_differences)
                reasons += await self._golden.check(reset=self._command.reset_clones)
            if reasons:
                raise Refusals(reasons)

    async def _check_host(self, name: str, host: HostDrivers) -> list[tuple[str, str | None]]:
        try:
            # who cannot be reached is one problem
            found = await self._distribution.check(name)
        except KvmComposeError as error:
            return [(f"{name}: {error.message}", error.hint)]
        reasons = [(f"{name}: {text}", hint) for text, hint in found]
        checks: Sequence[Callable[[], Awaitable[None]]] = (
            lambda: self._look_at(name, host),
            lambda: self._check_domains(name, host),
            host.switches.check,
            lambda: self._network.check(name, host),
        )
        for check in checks:
            try:
                await check()
            except KvmComposeError as error:
                reasons.append((f"{name}: {error.message}", error.hint))
        return reasons

    async def _look_at(self, name: str, host: HostDrivers) -> None:
        self._facts[name] = await host.hypervisor.facts()

    async def _check_domains(self, name: str, host: HostDrivers) -> None:
        guests = [guest for guest in self._testbed.guests.values() if guest.run is not None]
        domains = [guest.state.hostname for guest in guests if guest.state.testbed_host == name]
        network = self._testbed.network_plan.network
        networks = [network.name] if network.host == name else []
        foreign = await host.hypervisor.foreign(self._context.project, domains, networks)
        if foreign:
            raise DriverError(
                f"names are taken by other libvirt objects: {', '.join(foreign)}",
                hint="virsh dumpxml (net-dumpxml) shows it; --project-name gives this project another name",
            )

    def _check_guests(self, step: RunningStep) -> list[tuple[str, str | None]]:
        reasons: list[tuple[str, str | None]] = []
        unreachable: list[str] = []
        for guest in self._testbed.runnable:
            run = guest.run
            if run is None or guest.address is not None:
                continue
            if run.setup_scripts or run.run_scripts:
                reasons.append(
                    (
                        f"{guest.name} has scripts to run, but cannot be reached from the main host",
                        "connect one of its bridges to the external_bridge, or take its scripts away",
                    )
                )
            elif run.cloud_init:
                unreachable.append(guest.name)
        if unreachable:
            step.say(
                f"cannot be reached from the main host: {first_few(unreachable)}; "
                "started, but not waited for",
                Level.WARNING,
            )
        running = sorted(name for name, domain in self._domains.items() if domain.state != "shut off")
        if self._command.provision and running:
            reasons.append(
                (f"no new disks while guests run on them: {', '.join(running)}", "kvm-compose down")
            )
        self._check_memory(step)
        return reasons

    async def _check_key(self) -> list[tuple[str, str | None]]:
        if not any(guest.run and guest.run.cloud_init for guest in self._testbed.guests.values()):
            return []
        key = self._testbed.identity_file
        if await in_thread(self._testbed.has_key):
            return []
        named = "kvm-compose-config.json names it (ssh_private_key_location): put it there"
        ours = key == expand(default_keys().ssh_private_key_location)
        hint = "kvm-compose generate makes it" if ours else named
        return [(f"the guests' private key is not there: {key}", hint)]

    def _check_memory(self, step: RunningStep) -> None:
        for name, facts in self._facts.items():
            wanted = sum(
                guest.run.memory_mb
                for guest in self._testbed.runnable
                if guest.run is not None and guest.state.testbed_host == name
            )
            if wanted > facts.memory_mb:
                step.say(
                    f"{name} has {facts.memory_mb} MiB of memory; its guests may use {wanted} MiB",
                    Level.WARNING,
                )

    def _check_differences(self) -> list[tuple[str, str | None]]:
        deployed = self._context.deployed
        if deployed is None:
            return []
        live = {name for name, domain in self._domains.items() if domain.state == "running"}
        found = differences(deployed, Deployed.of(self._testbed), known=self._domains.keys(), live=live)
        if not found:
            return []
        project = self._context.project
        return [
            *((each, None) for each in found),
            (
                f"{project} is up as it was before these changes",
                "kvm-compose down && kvm-compose up brings it up as it is now (disks are kept)",
            ),
        ]

    async def _is_up(self) -> bool:
        if self._context.deployment.state is not Phase.UP or self._command.rerun_scripts:
            return False
        running = {name for name, domain in self._domains.items() if domain.state == "running"}
        if not {guest.name for guest in self._testbed.runnable} <= running:
            return False
        return await self._network.is_complete()

    def _to_be_deployed(self) -> Deployed:
        """What is noted as being up: of guests that run already, what they were started from."""
        built = Deployed.of(self._testbed)
        before = self._context.deployed
        if before is not None:
            for name, host in before.state["testbed_hosts"].items():
                if not host.get("is_main_host"):  # it has to be taken down one day
                    built.state["testbed_hosts"].setdefault(name, host)
            for name in self._domains.keys() - built.state["testbed_guests"].keys():
                if name in before.state["testbed_guests"]:  # it has to be taken down one day
                    built.state["testbed_guests"][name] = before.state["testbed_guests"][name]
        return built

    # -- the stages

    async def _bring_network_up(self) -> None:
        def job(name: str, host: HostDrivers) -> Job:
            async def run() -> None:
                with self._log.step("network", "project-folder", host=name):
                    folder = await shielded(self._distribution.prepare(host))
                    await shielded(self._link(host, folder))
                await self._distribution.deliver(host, running)

            return run

        running = {name for name, domain in self._domains.items() if domain.state != "shut off"}
        jobs = [job(name, host) for name, host in self._hosts.items()]
        if not all(await together(jobs, limit=len(jobs))) or not await self._network.bring_up(
            self._domains.keys()
        ):
            raise StepFailedError("the network did not come up")

    async def _link(self, host: HostDrivers, folder: Path) -> None:
        """Before 0.2, the main host's link led to the project folder for everybody."""
        before = self._context.location if not self._domains else None
        await host.disks.link_project(self._context.project, folder, before)

    async def _golden_images(self) -> None:
        failed = await self._golden.provide(self._limits())
        self._note({clone.name for name in failed for clone in self._testbed.clones(name)})

    async def _distribute(self) -> None:
        running = {name for name, domain in self._domains.items() if domain.state != "shut off"}
        lacking = await self._distribution.run(running, self._failed)
        self._note({guest.name for guest in self._testbed.runnable if guest.state.testbed_host in lacking})

    async def _guests(self) -> None:
        limits = self._limits()
        waiting = [guest for guest in self._testbed.runnable if guest.name not in self._failed]

        def job(guest: LoadedGuest) -> Job:
            return lambda: self._starter.start(guest, self._domains.get(guest.name), "guests")

        groups = [
            together([job(guest) for guest in mine], limit=limits[name])
            for name in self._hosts
            if (mine := [guest for guest in waiting if guest.state.testbed_host == name])
        ]
        results = [good for group in await side_by_side(groups) for good in group]
        ordered = [guest for name in self._hosts for guest in waiting if guest.state.testbed_host == name]
        self._note({guest.name for guest, good in zip(ordered, results, strict=True) if not good})

    def _limits(self) -> dict[str, int]:
        """How many guests may boot at a time, by host."""
        return {
            name: max(2, facts.cpus * BOOTS_PER_CPU.get(self._testbed.state.testbed_hosts[name].virt_type, 2))
            for name, facts in self._facts.items()
        }

    async def _scripts(self, stage: str, scripts_of: Callable[[LoadedGuest], Collection[str]]) -> None:
        guests = [
            guest for guest in self._testbed.runnable if guest.name not in self._failed and scripts_of(guest)
        ]

        def job(guest: LoadedGuest) -> Job:
            async def run() -> None:
                for script in scripts_of(guest):
                    await self._script(stage, guest, script)

            return run

        results = await together([job(guest) for guest in guests], limit=SCRIPTS)
        self._note({guest.name for guest, good in zip(guests, results, strict=True) if not good})

    async def _script(self, stage: str, guest: LoadedGuest, script: str) -> None:
        name = script.rpartition("/")[2]
        with self._log.step(
            stage, f"{stage}:{guest.name}:{name}", guest=guest.name, host=guest.state.testbed_host
        ) as step:
            login = await self._starter.login(guest)
            shell = self._context.shell
            once = stage == "setup"
            if once and not self._command.rerun_scripts and await has_run(shell, login, script):
                step.skip()
                return
            await run_script(shell, login, script, step.output)
            if once:
                await note_run(shell, login, script)

    # -- failures

    def _note(self, failed: set[str]) -> None:
        """Guests that go no further. Without ``keep_going`` nobody does once the stage is over."""
        self._failed |= failed
        if failed and not self._command.keep_going:
            raise StepFailedError(f"{', '.join(sorted(failed))} did not come up")
