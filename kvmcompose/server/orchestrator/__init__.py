"""Brings testbeds up and down: what the commands of a deployment do, from its state and artefacts alone."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import msgspec

from kvmcompose.core.access import ConsolePart, GuestAccess, GuestTerminals, TerminalSize
from kvmcompose.core.commands import ActionCommand, Capture, Down, Exec, Power, Reconnect, Test, Up
from kvmcompose.core.deployment import Deployment, Phase, SnapshotStatus, TestbedStatus
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.instance import InstanceEvent
from kvmcompose.core.planned import PlanRequest, TestbedPlan
from kvmcompose.effects.threads import ANSWER_SECONDS, Account, account
from kvmcompose.hosts.lines import Pieces
from kvmcompose.hosts.terminal import Terminal
from kvmcompose.providers.drivers import Drivers
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.byte_stream import BegunStream
from kvmcompose.server.orchestrator.agent_addresses import AgentAddresses
from kvmcompose.server.orchestrator.captures import capture
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.down import TakeDown
from kvmcompose.server.orchestrator.guest_events import guest_events
from kvmcompose.server.orchestrator.health_memory import HealthMemory
from kvmcompose.server.orchestrator.instances import instances_of_hosts, why_not_on
from kvmcompose.server.orchestrator.metering import HostLooks, TestbedFigures, measure
from kvmcompose.server.orchestrator.picture import Picture, Pictures
from kvmcompose.server.orchestrator.preview import preview
from kvmcompose.server.orchestrator.probing import probe
from kvmcompose.server.orchestrator.reconnect import Disconnected, disconnected, reconnect, starts
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.snapshots import Snapshots
from kvmcompose.server.orchestrator.status import Meter, access, status
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.orchestrator.up import BringUp
from kvmcompose.server.people import People, Person, this_user
from kvmcompose.server.store import Store


class Outcome(msgspec.Struct, frozen=True):
    """How a command ended that did not fail: where the deployment is now (None: where it was before)."""

    phase: Phase | None = None
    exit_status: int | None = None


class Orchestrator:
    """Does what is asked of deployments."""

    def __init__(self, drivers: Drivers, store: Store, people: People | None = None) -> None:
        """``people`` tells what owners of deployments may do now; None: no group of administrators."""
        self._drivers = drivers
        self._store = store
        self._people = people or People()
        self._meter = Meter()
        self._health = HealthMemory()
        self._agents = AgentAddresses()
        self._looks = HostLooks()
        self._pictures = Pictures()

    def _context(self, deployment: Deployment, *, seconds: float | None = ANSWER_SECONDS) -> Context:
        """A deployment to work on, from now on on its account; ``seconds`` is what its files may take."""
        owner = self._owner(deployment)
        context = Context(deployment, owner, self._drivers, self._store, self._health, self._agents)
        account.set(Account(deployment.name, context.owner.uid, seconds))
        return context

    def _owner(self, deployment: Deployment) -> Person:
        """Whose it is, whoever asks: what is done for it is done with their rights."""
        noted = self._store.owner(deployment.name)
        return self._people.owner(*noted) if noted is not None else this_user()

    async def run(
        self,
        deployment: Deployment,
        command: ActionCommand,
        log: ActionLog,
        stdin: Pieces | None = None,
    ) -> Outcome:
        """Run a command, and write its log. ``stdin`` is the input of an ``exec``.

        Raises KvmComposeError when it fails, RefusedError when nothing was changed. When cancelled, it stops
        at a point from which both ``up`` and ``down`` can continue.
        """
        context = self._context(deployment, seconds=None)
        match command:
            case Up() | Power():
                testbed = await context.read_built()
                await context.read_current()  # what is up may be refused now, and nothing is added to that
                return Outcome(await BringUp(context, testbed, command, log).run())
            case Down():
                return Outcome(await TakeDown(context, command, log).run())
            case Exec():
                return Outcome(exit_status=await self._exec(context, command, log, stdin))
            case Test():
                await probe(context, await context.read_current(), command, log)
                return Outcome()
            case Reconnect():
                await reconnect(context, command, log)
                return Outcome()
        await Snapshots(context, await context.read_current()).do(command, log)
        return Outcome()

    async def _exec(self, context: Context, command: Exec, log: ActionLog, stdin: Pieces | None) -> int:
        testbed = await context.read_current()
        guest = context.guest(testbed, command.guest)
        await _check_runs(context, testbed, guest)
        entrance = await runtime_of(guest).entrance(context, testbed, guest)
        with log.step("exec", f"exec:{guest.name}", guest=guest.name) as step:
            user = command.user or None
            await entrance.check_user(user)
            return await entrance.run(
                command.argv, step.output, user=user, seconds=command.timeout, stdin=stdin
            )

    async def reach(self, deployment: Deployment, name: str) -> socket.socket:
        """A connection to the SSH server of a guest that is up. Raises RefusedError, DriverError."""
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        return await runtime_of(guest).reach(context, testbed, guest)

    async def get_files(self, deployment: Deployment, name: str, path: str) -> AsyncGenerator[bytes]:
        """A tar archive of a file or folder of a guest. Raises RefusedError, NoSuchPathError, DriverError."""
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        async with aclosing(runtime_of(guest).get(context, testbed, guest, path)) as archive:
            async for piece in archive:
                yield piece

    async def put_files(self, deployment: Deployment, name: str, folder: str, archive: Pieces) -> None:
        """Extract a tar archive in a folder of a guest. Raises RefusedError, NoSuchPathError, DriverError."""
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        await runtime_of(guest).put(context, testbed, guest, folder, archive)

    async def state(self, deployment: Deployment) -> bytes:
        """The ``state.json`` of what is up, or of the project folder when nothing is."""
        return (await self._context(deployment).read_current()).document

    async def picture(self, deployment: Deployment, opened: Collection[str]) -> Picture:
        """The topology of what is up, or of the project folder when nothing is. Raises RefusedError.

        ``opened`` are the stacks whose guests are drawn one by one.
        """
        return await self._pictures.picture(self._context(deployment), opened)

    async def access(self, deployment: Deployment) -> list[GuestAccess]:
        """How each guest is reached."""
        return await access(self._context(deployment))

    async def status(self, deployment: Deployment) -> TestbedStatus:
        """The deployment and its guests as they are now."""
        return await status(self._context(deployment), self._meter)

    async def measure(self, deployment: Deployment) -> TestbedFigures | None:
        """What its guests use now; None when nothing of it is up. Raises RefusedError."""
        if self._store.deployed(deployment.name) is None:
            return None
        return await measure(self._context(deployment), self._looks)

    def guest_events(self, deployment: Deployment) -> AsyncGenerator[InstanceEvent]:
        """What the hosts report of its guests, until the generator is closed."""
        return guest_events(self._context(deployment))

    def starts(self, deployment: Deployment) -> AsyncGenerator[str]:
        """The identities of guests that run and may lose interfaces by a restart: now, and at each start."""
        return starts(self._context(deployment))

    async def disconnected(self, deployment: Deployment, identities: Collection[str]) -> Disconnected:
        """Which of these guests have lost interfaces by a restart. Nothing is changed."""
        return await disconnected(self._context(deployment), identities)

    async def plan(self, deployment: Deployment, request: PlanRequest) -> TestbedPlan:
        """What an ``up`` would change. Nothing is changed. Raises RefusedError."""
        return await preview(self._context(deployment), request)

    async def snapshots(self, deployment: Deployment, guest: str | None = None) -> list[SnapshotStatus]:
        """The snapshots of one guest, or of all."""
        context = self._context(deployment)
        return await Snapshots(context, await context.read_current()).shown(guest)

    async def console(
        self, deployment: Deployment, name: str, after: int | None, wait: int = 0
    ) -> ConsolePart:
        """What a guest's console has printed from an offset, or the end of it. Raises RefusedError.

        Where it has printed nothing since, this waits for it, at most ``wait`` seconds.
        """
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        return await runtime_of(guest).console(context, testbed, guest, after, wait)

    async def terminals(self, deployment: Deployment, name: str) -> GuestTerminals:
        """What of a guest can be seen in a terminal and on a screen. Raises RefusedError, DriverError."""
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        return await runtime_of(guest).terminals(context, testbed, guest)

    async def open_console(self, deployment: Deployment, name: str, *, force: bool) -> socket.socket:
        """A guest's console, in both directions. Raises ConsoleTakenError, RefusedError, DriverError."""
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        return await runtime_of(guest).open_console(context, testbed, guest, force=force)

    async def open_screen(self, deployment: Deployment, name: str) -> socket.socket:
        """A guest's screen: a VNC connection. Raises RefusedError, DriverError."""
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        return await runtime_of(guest).open_screen(context, testbed, guest)

    @asynccontextmanager
    async def shell(self, deployment: Deployment, name: str, size: TerminalSize) -> AsyncGenerator[Terminal]:
        """A shell in a guest that runs, until the block ends. Raises RefusedError, DriverError."""
        async with await self._shell(deployment, name, size) as terminal:
            yield terminal

    async def check_shell(self, deployment: Deployment, name: str) -> None:
        """Whether a shell can be opened in a guest now; none is. Raises RefusedError, DriverError."""
        await self._shell(deployment, name, TerminalSize(columns=1, rows=1))

    async def _shell(
        self, deployment: Deployment, name: str, size: TerminalSize
    ) -> AbstractAsyncContextManager[Terminal]:
        context = self._context(deployment)
        testbed = await context.read_current()
        guest = context.guest(testbed, name)
        made = await runtime_of(guest).shell(context, testbed, guest, size)
        await _check_runs(context, testbed, guest)
        return made

    async def capture(self, deployment: Deployment, wanted: Capture) -> BegunStream:
        """Packets of what is up, from now on. Raises WrongCaptureError for what there is not."""
        return await capture(self._context(deployment), wanted)

    def check_removal(self, deployment: Deployment) -> None:
        """Whether a deployment may be forgotten. Raises RefusedError while anything of it may be up."""
        if self._store.deployed(deployment.name) is not None:
            raise RefusedError(
                f"{deployment.name} is {deployment.state}, or was left half-way",
                hint="take it down first: kvm-compose down",
            )


async def _check_runs(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> None:
    """Raise RefusedError for a guest that does not run, so that nothing can run in it."""
    there, silent = await instances_of_hosts(context, testbed, {guest.state.testbed_host})
    instance = there.get(guest.name)
    # where libvirt does not answer, SSH may: the guest does not need libvirt
    if not silent and (instance is None or instance.state != "running"):
        reason, hint = why_not_on(guest.name, instance)
        raise RefusedError(reason, hint=hint)
