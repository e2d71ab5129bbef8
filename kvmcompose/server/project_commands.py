"""Runs the command line in a project's folder, as the owner of the deployment.

The server never reads the YAML and builds nothing. What needs both is done by the same command line that
users have, with the owner's rights. What it asks of this server counts as asked by the user for whom it runs.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.names import project_name_from
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.owner_command import OwnerCommand, account_of
from kvmcompose.server.people import Asker, Peer, Person, login_name

#: Commands at a time, of one user and of all: those that only look, and those that build.
LOOKS_OF_ONE, LOOKS = 3, 8
BUILDS_OF_ONE, BUILDS = 4, 16
#: How long a command waits for others to end, in seconds.
_WAIT_SECONDS = 20.0
#: How long a command may look, and build, in seconds. A build fetches images.
LOOK_SECONDS, BUILD_SECONDS = 120.0, 6 * 3600.0
#: What the server's own user has set for the command line. Nothing of it selects a project, gives consent or
#: is a secret of the server.
_KEPT = (
    "PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
    "KVM_COMPOSE_STATE_DIR", "KVM_COMPOSE_STORE", "KVM_COMPOSE_MIRROR", "SOURCE_DATE_EPOCH",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
#: Code of the server's, so that a build knows the guest types that the server knows.
_PLUGINS = "KVM_COMPOSE_PLUGINS"


class OwnedProject(msgspec.Struct, frozen=True, kw_only=True):
    """Where a command runs, as whom and for whom. ``folder`` was checked to belong to ``owner``."""

    deployment: str
    folder: Path
    owner: Person
    asker: Asker


class _Places:
    """How many commands of a kind run: of one user, and of all."""

    def __init__(self, of_one: int, of_all: int) -> None:
        self._of_one = of_one
        self._all = asyncio.Semaphore(of_all)
        self._of_users: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def one(self, user: str) -> AsyncIterator[None]:
        """Hold a place. Raises RefusedError when there is none in time."""
        mine = self._of_users.setdefault(user, asyncio.Semaphore(self._of_one))
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await mine.acquire()
                try:
                    await self._all.acquire()
                except BaseException:
                    mine.release()
                    raise
        except TimeoutError:
            raise RefusedError(
                "too many commands run in projects of this server", hint="try again in a moment"
            ) from None
        try:
            yield
        finally:
            self._all.release()
            mine.release()


class ProjectCommands:
    """The commands that run. ``socket`` is the one that this server listens on."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket.absolute()
        self._looks = _Places(LOOKS_OF_ONE, LOOKS)
        self._builds = _Places(BUILDS_OF_ONE, BUILDS)
        self._askers: dict[int, Asker] = {}

    def asker_of(self, peer: Peer) -> Asker | None:
        """Return the user for whom the process of a connection runs; None for any other process."""
        return self._askers.get(peer.pid)

    async def look(self, project: OwnedProject, words: Sequence[str], stdin: bytes = b"") -> Completed:
        """Run a command that changes nothing on hosts. Raises RefusedError, DriverError."""
        command = self._command(project, words, LOOK_SECONDS)
        async with self._looks.one(project.asker.name), self._running(project, command):
            return await command.output(stdin)

    async def build(
        self, project: OwnedProject, words: Sequence[str], stdin: bytes = b""
    ) -> AsyncGenerator[bytes | int | None]:
        """Run a command that builds: yield each line that it prints, then its exit status (None: killed).

        Raises RefusedError, DriverError.
        """
        command = self._command(project, words, BUILD_SECONDS)
        async with self._builds.one(project.asker.name), self._running(project, command, merged=True):
            lines = command.lines(stdin)
            try:
                async for line in lines:
                    yield line
            finally:
                await lines.aclose()
            yield command.status

    @asynccontextmanager
    async def _running(
        self, project: OwnedProject, command: OwnerCommand, *, merged: bool = False
    ) -> AsyncIterator[None]:
        """Start a command; it has ended when the block has."""
        await command.start(merged=merged)
        pid = command.pid
        assert pid is not None  # noqa: S101 (it was started)
        self._askers[pid] = project.asker
        try:
            yield
        finally:
            try:
                await command.end()
            finally:
                del self._askers[pid]

    def _command(self, project: OwnedProject, words: Sequence[str], seconds: float) -> OwnerCommand:
        uid = project.owner.uid
        if os.geteuid() not in (0, uid):
            raise RefusedError(
                f"this server runs as {login_name(os.geteuid())} and cannot act with the rights of"
                f" {project.owner.name}",
                hint=f"use a server of {project.owner.name}, or one of root",
            )
        account = account_of(uid)
        environment = account.environment | {"KVM_COMPOSE_SERVER": f"unix:{self._socket}"}
        if uid == os.geteuid():
            environment |= {name: os.environ[name] for name in _KEPT if name in os.environ}
        if _PLUGINS in os.environ:
            environment[_PLUGINS] = os.environ[_PLUGINS]
        argv = [sys.executable, "-X", "utf8", "-P", "-m", "kvmcompose", "--message-format", "json"]
        if project_name_from(project.folder.name) != project.deployment:
            argv += ["--project-name", project.deployment]
        return OwnerCommand(
            f"kvm-compose {words[0]}",
            [*argv, *words],
            account=account,
            folder=project.folder,
            environment=environment,
            seconds=seconds,
        )
