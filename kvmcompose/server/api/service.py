"""The service behind the API: it manages deployments and handles the requests for them."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path

from kvmcompose.client.address import Address
from kvmcompose.core.access import ConsolePart, GuestTerminals, TerminalSize
from kvmcompose.core.commands import PROJECT_PATTERN, Capture, Command
from kvmcompose.core.deployment import Action, Deployment, Health, LogLine, NewDeployment, Step, TestbedStatus
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.planned import PlanRequest, TestbedPlan
from kvmcompose.effects.threads import ANSWER_SECONDS, Account, account, in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Pieces
from kvmcompose.hosts.terminal import Terminal
from kvmcompose.server.action_input import ActionInput
from kvmcompose.server.actions import Actions, BusyError, NotFoundError
from kvmcompose.server.api.event_parts import EventParts
from kvmcompose.server.api.event_reader import EventReader, Wanted
from kvmcompose.server.api.figures import DeploymentFigures, ServerFigures
from kvmcompose.server.api.guard import Activity
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.request_audit import summary
from kvmcompose.server.api.rights import check_change, check_owner, project_folder, view
from kvmcompose.server.audit import short
from kvmcompose.server.byte_stream import BegunStream
from kvmcompose.server.conditions import Conditions
from kvmcompose.server.event_channel import Channel
from kvmcompose.server.guest_console import GuestConsole
from kvmcompose.server.guest_watch import GuestWatches
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.orchestrator.captures import WrongCaptureError
from kvmcompose.server.people import Asker, People, Person
from kvmcompose.server.store import Store

log = logging.getLogger(__name__)

_PROJECT = re.compile(PROJECT_PATTERN)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


#: How long a scrape waits for a deployment, whose files may be on something that does not answer, in seconds.
_MEASURE_SECONDS = 8.0
#: How long a request for the list looks which testbeds are degraded, in seconds.
_CONDITIONS_SECONDS = 8.0
#: Limits for each user who is not an administrator: all users share names, processes and memory.
MOST_DEPLOYMENTS, MOST_ACTIONS = 500, 100
#: How many shells may be open in a guest: each is a process of the host.
MOST_SHELLS = 32


class Service:
    """A server without authentication. Raises NotFoundError, RefusedError, ApiError."""

    def __init__(
        self,
        store: Store,
        actions: Actions,
        orchestrator: Orchestrator,
        *,
        project_roots: tuple[Path, ...],
        health: Health,
        people: People | None = None,
        activity: Activity | None = None,
        page_address: Callable[[], Address] | None = None,
    ) -> None:
        """``people`` knows users' roles; None: no group of administrators. ``activity`` is for metrics.

        ``page_address`` returns the TCP address of this server, and listens there first if it does not yet.
        """
        self._store = store
        self._actions = actions
        self.orchestrator = orchestrator
        self._roots = tuple(root.resolve() for root in project_roots)
        self.health = health
        self._people = people or People()
        self._activity = activity or Activity()
        self._page_address = page_address
        #: How many clients follow events.
        self._event_sockets = 0
        #: How many shells are open, by deployment and guest.
        self._shells: Counter[tuple[str, str]] = Counter()
        self._parts = EventParts(store)
        self._conditions = Conditions(store, orchestrator.status)
        self._watches = GuestWatches(store, self._conditions.status, orchestrator.guest_events)
        #: Set when the server is about to stop: endless streams have to end.
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """End the endless streams: the server is about to stop."""
        self.stopping.set()
        self._store.wake_all()

    def page_address(self) -> Address:
        """Return where browsers of this machine reach the server. Raises RefusedError."""
        if self._page_address is None:
            raise RefusedError("this server cannot be reached by TCP")
        return self._page_address()

    # -- deployments

    def deployments(self, asker: Asker) -> list[Deployment]:
        """Return all deployments, by name, as far as the sender may see them."""
        found = self._store.deployments()
        return [view(asker.person, self._conditions.of(each), self._owner(each).uid) for each in found]

    async def find_conditions(self, asker: Asker) -> None:
        """Look which of the deployments that the sender may access are degraded, for some seconds."""
        seen = [each for each in self._store.deployments() if self._sees(asker, each)]
        await self._conditions.find(seen, _CONDITIONS_SECONDS)

    def following_conditions(self, asker: Asker) -> AbstractContextManager[None]:
        """Keep looking which of the deployments that the sender may access are degraded."""
        return self._conditions.following(lambda each: self._sees(asker, each))

    def _sees(self, asker: Asker, deployment: Deployment) -> bool:
        return asker.person.is_admin or asker.person.uid == self._owner(deployment).uid

    async def status(self, asker: Asker, name: str) -> TestbedStatus:
        """Return a deployment and its guests as they are now."""
        return await self._conditions.status(self.own(asker, name))

    @property
    def all_deployments(self) -> Channel:
        """Return what wakes those who follow the list of deployments."""
        return self._store.all_deployments

    def deployment(self, asker: Asker, name: str) -> Deployment:
        """Return a deployment, as far as the sender may see it."""
        found = self._found(name)
        return view(asker.person, self._conditions.of(found), self._owner(found).uid)

    def own(self, asker: Asker, name: str) -> Deployment:
        """Return a deployment that the sender may access."""
        found = self._found(name)
        note = asker.note
        note.deployment, note.owner = found.name, found.owner
        note.foreign = asker.person.uid != self._owner(found).uid
        check_owner(asker.person, found, self._owner(found).uid)
        return found

    def _own_to_change(self, asker: Asker, name: str) -> Deployment:
        found = self.own(asker, name)
        check_change(asker)
        return found

    def _found(self, name: str) -> Deployment:
        found = self._store.deployment(name) if _PROJECT.match(name) else None
        if found is None:
            raise NotFoundError(
                f"no such deployment: {name!r}", hint="`kvm-compose up` in its folder registers it"
            )
        return found

    def _owner(self, deployment: Deployment) -> Person:
        noted = self._store.owner(deployment.name)
        assert noted is not None  # noqa: S101 (it was just found, and no other task ran since)
        return self._people.owner(*noted)

    async def create(self, asker: Asker, new: NewDeployment) -> Deployment:
        """Register a deployment under a name that is not in use."""
        asker.note.deployment, asker.note.folder = new.name, new.project_location
        check_change(asker)
        folder = await self._folder(asker, new.project_location, asker.person)
        if self._store.deployment(new.name) is not None:
            raise RefusedError(f"the deployment {new.name!r} already exists")
        return self._put(new, folder, asker.person)

    async def put(self, asker: Asker, new: NewDeployment) -> tuple[Deployment, bool]:
        """Register a deployment, or change its folder while it is down. Returns whether it is new."""
        asker.note.deployment, asker.note.folder = new.name, new.project_location
        check_change(asker)
        owner = asker.person
        if self._store.deployment(new.name) is not None:
            owner = self._owner(self.own(asker, new.name))  # an administrator's change keeps the owner
        folder = await self._folder(asker, new.project_location, owner)
        # the deployment may have changed while the folder was inspected
        known = self._store.deployment(new.name)
        if known is None:
            return self._put(new, folder, asker.person), True
        self.own(asker, new.name)
        if known.project_location == str(folder):
            asker.note.changed = False
            return known, False
        self._check_idle(known)
        try:
            self.orchestrator.check_removal(known)
        except RefusedError as error:
            raise RefusedError(
                f"the deployment {new.name!r} belongs to {known.project_location}: {error.message}",
                hint=error.hint,
            ) from error
        return self._put(new, folder, owner), False

    def _put(self, new: NewDeployment, folder: Path, owner: Person) -> Deployment:
        others = [each for each in self._store.deployments() if each.name != new.name]
        if not owner.is_admin and sum(each.owner == owner.name for each in others) >= MOST_DEPLOYMENTS:
            raise RefusedError(
                f"{owner.name} has {MOST_DEPLOYMENTS} deployments on this server, which is the limit",
                hint="remove one that is down: kvm-compose deployments remove NAME",
            )
        for other in others:
            if other.project_location == str(folder):
                raise RefusedError(
                    f"{folder} is already deployed as {other.name!r}",
                    hint="use that name, or remove that deployment first",
                )
        return self._store.put_deployment(NewDeployment(new.name, str(folder)), owner)

    async def _folder(self, asker: Asker, location: str, owner: Person, deployment: str = "") -> Path:
        """Return the project folder with links resolved. Inspected in a thread, because that may hang."""
        account.set(Account(deployment, owner.uid, ANSWER_SECONDS))
        return await in_thread(project_folder, location, self._roots, asker.person, owner)

    async def project_of(self, asker: Asker, name: str) -> tuple[Deployment, Path, Person]:
        """Return a deployment that the sender may access, its folder, and the owner, whose folder it is."""
        deployment = self.own(asker, name)
        owner = self._owner(deployment)
        folder = await self._folder(asker, deployment.project_location, owner, name)
        if str(folder) != deployment.project_location:
            raise ApiError(HTTPStatus.FORBIDDEN, f"{deployment.project_location} now resolves to {folder}")
        return deployment, folder, owner

    def remove(self, asker: Asker, name: str) -> None:
        """Remove a deployment that is down."""
        deployment = self._own_to_change(asker, name)
        self._check_idle(deployment)
        self.orchestrator.check_removal(deployment)
        self._store.remove_deployment(name)
        self._actions.counts.forget(name)

    def _check_idle(self, deployment: Deployment) -> None:
        running = self._actions.running(deployment.name)
        if running is not None:
            raise BusyError(running)

    async def plan(self, asker: Asker, name: str, request: PlanRequest) -> TestbedPlan:
        """Return what an ``up`` of a deployment would change."""
        deployment = self.own(asker, name)
        asker.note.changed = False
        try:
            return await self.orchestrator.plan(deployment, request)
        except (DriverError, RefusedError):
            raise
        except KvmComposeError as error:  # the state, or a file that should have been sent
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, error.message, hint=error.hint) from error

    async def console(self, asker: Asker, name: str, guest: str, after: int | None, wait: int) -> ConsolePart:
        """Return what a console has printed from an offset; wait for it no longer than the server runs."""
        deployment = self.own(asker, name)
        reading = asyncio.create_task(self.orchestrator.console(deployment, guest, after, wait))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            return await reading if reading.done() else ConsolePart(start=after or 0, data=b"")
        finally:
            for task in (reading, stopping):
                task.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)

    async def terminals(self, asker: Asker, name: str, guest: str) -> GuestTerminals:
        """Return what of a guest can be seen in a terminal and on a screen."""
        return await self.orchestrator.terminals(self.own(asker, name), guest)

    async def open_console(
        self, asker: Asker, name: str, guest: str, *, force: bool, watch: bool
    ) -> GuestConsole:
        """Open a console: in both directions unless that is not possible, or only to ``watch``.

        ``force``: take it from another user. Raises RefusedError, DriverError.
        """
        deployment = self.own(asker, name)
        asker.note.command = {"name": "console", "guest": guest}
        endpoint: socket.socket | None = None
        why: KvmComposeError | None = None
        if not watch:
            try:
                check_change(asker)
                endpoint = await self.orchestrator.open_console(deployment, guest, force=force)
            except (ApiError, RefusedError) as error:
                why = error
        try:
            printed = await self.orchestrator.console(deployment, guest, None)
        except BaseException:
            if endpoint is not None:
                endpoint.close()
            raise
        return GuestConsole(printed, endpoint, why)

    async def open_screen(self, asker: Asker, name: str, guest: str) -> socket.socket:
        """Return a connection to the screen of a guest. Raises RefusedError, DriverError."""
        deployment = self._own_to_change(asker, name)
        asker.note.command = {"name": "screen", "guest": guest}
        return await self.orchestrator.open_screen(deployment, guest)

    @asynccontextmanager
    async def shell(
        self, asker: Asker, name: str, guest: str, size: TerminalSize
    ) -> AsyncGenerator[Terminal]:
        """Open a shell in a guest, until the block ends. Raises RefusedError, DriverError."""
        deployment = self._own_to_change(asker, name)
        asker.note.command = {"name": "shell", "guest": guest}
        asker.note.entered = True
        place = deployment.name, guest
        if self._shells[place] >= MOST_SHELLS:
            raise RefusedError(
                f"{guest} has {MOST_SHELLS} open shells, which is the limit", hint="close some"
            )
        self._shells[place] += 1
        try:
            async with self.orchestrator.shell(deployment, guest, size) as terminal:
                yield terminal
        finally:
            self._shells[place] -= 1
            if not self._shells[place]:
                del self._shells[place]

    async def check_shell(self, asker: Asker, name: str, guest: str) -> None:
        """Raise RefusedError or DriverError where no shell can be opened in a guest now."""
        await self.orchestrator.check_shell(self._own_to_change(asker, name), guest)

    async def capture(self, asker: Asker, name: str, wanted: Capture) -> BegunStream:
        """Start to capture packets of a deployment."""
        deployment = self.own(asker, name)
        try:
            return await self.orchestrator.capture(deployment, wanted)
        except WrongCaptureError as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, error.message, hint=error.hint) from error

    # -- actions

    async def act(self, asker: Asker, name: str, command: Command) -> Action:
        """Start an action. The folder must still be the registered one, and belong to the owner."""
        asker.note.command = summary(command)
        deployment = self._own_to_change(asker, name)
        folder = await self._folder(asker, deployment.project_location, self._owner(deployment), name)
        await self._actions.make_way(name)
        deployment = self._own_to_change(asker, name)  # it may have changed meanwhile
        if str(folder) != deployment.project_location:
            raise ApiError(HTTPStatus.FORBIDDEN, f"{deployment.project_location} now resolves to {folder}")
        owner = self._owner(deployment)
        if not owner.is_admin and self._actions.count(deployment.owner) >= MOST_ACTIONS:
            raise RefusedError(
                f"{owner.name} has {MOST_ACTIONS} running actions, which is the limit",
                hint="wait until some have ended, or cancel them: kvm-compose cancel",
            )
        action = self._actions.begin(deployment, command, asker.remark, asker.name)
        asker.note.action = action.uuid
        return action

    def actions(self, asker: Asker, name: str) -> list[Action]:
        """A deployment's actions, the latest first."""
        return self._store.actions(self.own(asker, name).name)

    def action(self, asker: Asker, name: str, uuid: str) -> Action:
        """One of its actions."""
        deployment = self.own(asker, name)
        found = self._store.action(uuid) if _UUID.fullmatch(uuid) else None
        if found is None or found.deployment != deployment.name:
            raise NotFoundError(f"{name}: no such action: {uuid!r}", hint="only the latest actions are kept")
        return found

    def cancel(self, asker: Asker, name: str, uuid: str) -> Action:
        """Stop an action, if it runs."""
        action = self.action(asker, name, uuid)
        check_change(asker)
        asker.note.action = uuid
        asker.note.changed = self._actions.cancel(uuid)
        return action

    def input(self, asker: Asker, name: str, uuid: str) -> ActionInput:
        """Return where the input of a command in a guest goes. Raises RefusedError when it takes none."""
        action = self.action(asker, name, uuid)
        check_change(asker)
        asker.note.action = uuid
        return self._actions.input(action.uuid)

    async def reach(self, asker: Asker, name: str, guest: str) -> socket.socket:
        """Return a connection to the SSH server of a guest. Raises RefusedError, DriverError."""
        deployment = self._own_to_change(asker, name)
        asker.note.command = {"name": "ssh", "guest": guest}
        return await self.orchestrator.reach(deployment, guest)

    async def get_files(self, asker: Asker, name: str, guest: str, path: str) -> BegunStream:
        """Begin to read files of a guest: a tar archive. Raises RefusedError, DriverError."""
        deployment = self._own_to_change(asker, name)
        asker.note.command = {"name": "cp", "guest": guest, "from": short(path)}
        archive = self.orchestrator.get_files(deployment, guest, path)
        try:
            return BegunStream(await anext(archive), archive)
        except StopAsyncIteration:
            raise DriverError(f"{guest} sent nothing for {path}") from None

    async def put_files(self, asker: Asker, name: str, guest: str, folder: str, archive: Pieces) -> None:
        """Extract a tar archive in a guest, unless the server stops meanwhile."""
        deployment = self._own_to_change(asker, name)
        asker.note.command = {"name": "cp", "guest": guest, "to": short(folder)}
        extracting = asyncio.create_task(self.orchestrator.put_files(deployment, guest, folder, archive))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait((extracting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not extracting.done():
                raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")
            extracting.result()
        finally:
            for task in (extracting, stopping):
                task.cancel()
            await asyncio.gather(extracting, stopping, return_exceptions=True)

    def steps(self, asker: Asker, name: str, uuid: str) -> list[Step]:
        """An action's steps so far."""
        return self._store.steps(self.action(asker, name, uuid).uuid)

    def lines(self, asker: Asker, name: str, uuid: str, *, after: int, limit: int) -> list[LogLine]:
        """Some of an action's log."""
        return self._store.lines(self.action(asker, name, uuid).uuid, after=after, limit=limit)

    def follow(self, asker: Asker, name: str, uuid: str, after: int) -> AsyncIterator[LogLine]:
        """An action's log, until it ends."""
        return self._actions.follow(self.action(asker, name, uuid).uuid, after)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Count a client that follows events, as long as the block runs."""
        self._event_sockets += 1
        try:
            yield
        finally:
            self._event_sockets -= 1

    async def metrics(self, asker: Asker) -> tuple[list[DeploymentFigures], ServerFigures]:
        """Return the figures of the deployments that the sender may access, and those of the server."""
        own = [
            each
            for each in self._store.deployments()
            if asker.person.is_admin or asker.person.uid == self._owner(each).uid
        ]
        found = await asyncio.gather(*(self._measure(each) for each in own))
        return found, ServerFigures(
            version=self.health.version,
            answered=dict(self._activity.answered),
            requests=self._activity.requests,
            websockets=self._activity.followers,
            event_sockets=self._event_sockets,
        )

    async def _measure(self, deployment: Deployment) -> DeploymentFigures:
        """Return the figures of one deployment, without guests if its testbed cannot be read."""
        testbed, readable = None, True
        try:
            async with asyncio.timeout(_MEASURE_SECONDS):
                testbed = await self.orchestrator.measure(deployment)
        except (KvmComposeError, TimeoutError) as error:
            log.info("metrics: %s: %s", deployment.name, error or f"not within {_MEASURE_SECONDS:g} s")
            readable = False
        running = [each.command for each in self._actions.all_running(deployment.name)]
        return DeploymentFigures(
            deployment=deployment,
            testbed=testbed,
            readable=readable,
            running=tuple(running),
            ended=self._actions.counts.of(deployment.name),
        )

    def events(self, asker: Asker, name: str, wanted: Wanted) -> EventReader:
        """The events of a deployment, or of one of its actions."""
        deployment = self.own(asker, name)
        if wanted.action is not None:
            self.action(asker, name, wanted.action)
        return EventReader(
            self._store, self._parts, self._actions, self._watches, self.stopping, deployment.name, wanted
        )
