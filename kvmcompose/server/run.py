"""Runs a server, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal

from starlette.types import ASGIApp

from kvmcompose import __version__
from kvmcompose.core.deployment import Health
from kvmcompose.core.errors import RefusedError
from kvmcompose.providers.drivers import Drivers
from kvmcompose.server import collector
from kvmcompose.server.actions import Actions
from kvmcompose.server.api import create_app
from kvmcompose.server.api.authentication import AccessPolicy, Authenticator
from kvmcompose.server.api.guard import Activity, Guard
from kvmcompose.server.api.service import Service
from kvmcompose.server.audit import Audit, AuditRecord
from kvmcompose.server.clock import now
from kvmcompose.server.doors import Doors
from kvmcompose.server.listen import held
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.people import People
from kvmcompose.server.project_commands import ProjectCommands
from kvmcompose.server.reconnection import Reconnection
from kvmcompose.server.sessions import Sessions
from kvmcompose.server.settings import ServerSettings, check
from kvmcompose.server.store import Store
from kvmcompose.server.tokens import Tokens

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_DESCRIPTORS = 8192
#: How long clients that follow an action may still ask for its result when the server stops, in seconds.
_RESULT_SECONDS = 0.5
_DATABASE = "server.db"
#: Of simulated testbeds, which a server for real hosts must not list.
_FAKE_DATABASE = "fake-server.db"
#: How long ago the last request must be for the server to rest, in seconds.
_REST_SECONDS = 1.0
#: How long ago it must be for an embedded server to end while a browser is signed in, in seconds: a page that
#: nobody looks at sends no requests, and a session does not outlive its server.
_PAGE_SECONDS = 300.0


def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT; an embedded server until it has been idle for a while.

    Raises RefusedError (HeldError among them) and StoreError when it cannot start.
    """
    collector.configure()
    check(settings)
    _raise_limit()
    with held(settings):
        store = Store(settings.state_dir / (_DATABASE if settings.fake is None else _FAKE_DATABASE))
        try:
            for action in store.interrupt():
                log.warning(
                    "%s: %r was running when the last server died (action %s)",
                    action.deployment, action.command, action.uuid,
                )  # fmt: skip
            asyncio.run(_Server(settings, store).run())
        finally:
            store.close()


def _raise_limit() -> None:
    """Allow more file descriptors than clients can use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _drivers(settings: ServerSettings) -> Drivers:
    if settings.fake is not None:
        from kvmcompose.providers.fake import FakeDrivers  # noqa: PLC0415 (one of the two is needed)

        return FakeDrivers(
            settings.state_dir / "fake-host.json",
            failures=settings.fake.failures,
            delay=settings.fake.delay,
        )
    try:
        from kvmcompose.providers.real import RealDrivers  # noqa: PLC0415 (needs libvirt-python)
    except ModuleNotFoundError as error:
        raise RefusedError(
            f"this installation cannot drive hosts: the module {error.name!r} is missing",
            hint="pip install 'kvmcompose[server]', or try --fake, which works without it",
        ) from error
    return RealDrivers()


class _Server:
    """The parts of a running server."""

    def __init__(self, settings: ServerSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._activity = Activity()
        self._people = People(settings.admin_group)
        self._audit = Audit(settings.state_dir)
        self._tokens = Tokens(settings.state_dir)
        self._sessions = Sessions()
        self._commands = ProjectCommands(settings.socket)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until the end."""
        settings = self._settings
        drivers = _drivers(settings)
        orchestrator = Orchestrator(drivers, self._store, self._people)
        actions = Actions(self._store, orchestrator, self._audit)
        reconnection = Reconnection(self._store, actions, orchestrator)
        doors = Doors(settings, self._stopping.set, lambda policy: self._guarded(app, policy))
        service = Service(
            self._store,
            actions,
            orchestrator,
            project_roots=settings.project_roots,
            health=Health(
                version=__version__, drivers=drivers.name, embedded=settings.embedded, pid=os.getpid()
            ),
            people=self._people,
            activity=self._activity,
            page_address=doors.page_address,
        )
        app = create_app(service, self._commands)
        try:
            with doors:
                doors.open()
                self._on_signals()
                self._activity.touch()
                collecting = asyncio.create_task(collector.collect_at_rest(lambda: self._rests(actions)))
                if not settings.embedded:
                    reconnection.start()
                _warn(settings)
                self._audit.write(AuditRecord(time=now(), event="server", outcome="started", pid=os.getpid()))
                log.info("listening on unix:%s (process %d)", settings.socket, os.getpid())
                await self._until_the_end(actions, doors)
                collecting.cancel()
                service.stop()
                await reconnection.stop()
                await self._stop(actions)
                await doors.close()
        finally:
            await reconnection.stop()
            await actions.stop()
            await drivers.close()

    def _guarded(self, app: ASGIApp, policy: AccessPolicy) -> ASGIApp:
        """Return the application for a listener."""
        authenticator = Authenticator(policy, self._people, self._tokens, self._sessions, self._commands)
        return Guard(app, authenticator, self._activity, self._audit)

    def _rests(self, actions: Actions) -> bool:
        """Return whether no action runs, and clients at most follow events."""
        idle = asyncio.get_running_loop().time() - self._activity.last
        answering = self._activity.requests > self._activity.followers
        return not actions.busy and not answering and idle >= _REST_SECONDS

    def _on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            log.error("stopping immediately; running actions will be marked as interrupted")
            self._settings.socket.unlink(missing_ok=True)
            os._exit(128 + number)
        log.info("stopping: running actions are brought to a safe point (signal again to stop immediately)")
        self._stopping.set()

    async def _until_the_end(self, actions: Actions, doors: Doors) -> None:
        """Return when the server has to stop or, if it is embedded, has been idle for a while."""
        while self._settings.embedded:
            idle = asyncio.get_running_loop().time() - self._activity.last
            if actions.busy or self._activity.requests or doors.connections:
                self._activity.touch()
            elif idle >= (_PAGE_SECONDS if self._sessions.any else self._settings.idle):
                log.info("stopping: no requests for %.0f s", idle)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _POLL_SECONDS)
                return
        await self._stopping.wait()

    async def _stop(self, actions: Actions) -> None:
        """Accept no new work, bring actions to a safe point, let clients see their results, and close."""
        self._activity.draining = True
        self._settings.socket.unlink(missing_ok=True)  # new clients find no server, not a closing one
        followed = self._activity.followers > 0
        await actions.stop()
        if followed:
            await asyncio.sleep(_RESULT_SECONDS)


def _warn(settings: ServerSettings) -> None:
    """Log a warning about the users to whom this server gives the rights of root."""
    root = os.geteuid() == 0
    if root and not settings.embedded:
        group = f", and every member of the group {settings.admin_group}," if settings.admin_group else ""
        log.warning(
            "this server runs as root: its administrators (root%s and all holders of its token) can do"
            " everything that root can do on this machine",
            group,
        )
    if settings.socket_group is not None and root:
        log.warning(
            "members of the group %s can run testbeds here; only the checks of this server keep them from"
            " getting the rights of root",
            settings.socket_group,
        )
    elif settings.socket_group is not None:
        log.warning(
            "this server does not run as root and cannot act with the rights of other users: members of the"
            " group %s can only list deployments, unless --admin-group makes them administrators",
            settings.socket_group,
        )
