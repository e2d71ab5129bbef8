"""Runs commands in guests through asyncssh, over one connection per guest that is kept open.

No agent, no SSH configuration of the user's, and no key but the given one is used.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import shlex
import socket
import time
from collections.abc import Sequence

import asyncssh
import msgspec

from kvmcompose.core.ready import HttpReady
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.hosts.ssh import SILENT, text_of
from kvmcompose.providers.guest.answers import wait_answer
from kvmcompose.providers.guest.command import WAIT_UNTIL_READY, GuestCommand
from kvmcompose.providers.guest.connection import KEEPALIVE_SECONDS, connect, reach
from kvmcompose.providers.guest.interface import Login
from kvmcompose.providers.guest.known_hosts import known_hosts

log = logging.getLogger(__name__)

_PAUSES = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
#: How long a guest may refuse our key, in seconds: it listens before its first boot has installed the key.
_REFUSES_FOR_GOOD = 30.0
#: sshd allows ten sessions per connection (MaxSessions); some are reserved for ending commands.
_SESSIONS = 7
#: How long a connected guest may take to answer, in seconds.
_ANSWER_SECONDS = 20.0

_NO_ROUTE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT}


class _Guest(msgspec.Struct):
    """The connection to a guest, the lock for opening one, and the limit of sessions.

    ``heard`` is when it last answered, by the monotonic clock.
    """

    guard: asyncio.Lock
    sessions: asyncio.Semaphore
    connection: asyncssh.SSHClientConnection | None = None
    heard: float = 0.0


class SshShell:
    """See ``GuestShell``. Guests must be reachable from this machine."""

    def __init__(self) -> None:
        self._guests: dict[Login, _Guest] = {}
        asyncssh.set_log_level(logging.WARNING)  # it logs each connection and session

    async def wait_ready(self, login: Login, seconds: float) -> None:
        """Wait until we can log in and the first-boot set-up is complete."""
        progress = _Progress(login)
        try:
            async with asyncio.timeout(seconds):
                await self._until_ready(login, progress)
        except TimeoutError:
            raise DriverError(
                f"{login.guest} was not ready within {seconds:.0f} s: {progress.reached}", hint=progress.hint
            ) from None

    async def wait_answer(self, login: Login, seconds: float, http: HttpReady | None = None) -> None:
        await wait_answer(login, seconds, http)

    async def run(
        self,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command; return its exit status, or 128 + n when signal n ended it."""
        log.debug("$ ssh %s@%s -- %s", login.user, login.address, shlex.join(argv))
        guest = self._guest(login)
        async with guest.sessions:
            shared = await self._live_connection(login)
            try:
                return await self._run_on(shared, login, argv, on_line, seconds, stdin)
            except asyncssh.ChannelOpenError as error:
                # Nothing was started. sshd has a limit; dropbear (2022.83) sometimes refuses a session while
                # other ones are opened and closed.
                log.debug("%s refuses another session: %s", login.guest, error)
            try:
                alone = await connect(login)
            except (OSError, asyncssh.Error) as error:
                raise _unreachable(login, error) from error
            try:
                return await self._run_on(alone, login, argv, on_line, seconds, stdin)
            except asyncssh.ChannelOpenError as error:
                raise DriverError(f"{login.guest} refuses to run {argv[0]}: {text_of(error)}") from error
            finally:
                alone.abort()

    async def _run_on(
        self,
        connection: asyncssh.SSHClientConnection,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        seconds: float | None,
        stdin: Pieces | None,
    ) -> int:
        """Run a command; it has ended when this returns. Raises ChannelOpenError if it was not started."""
        command = GuestCommand(connection, login, argv, on_line, stdin)
        try:
            async with asyncio.timeout(seconds):
                return await command.follow()
        except TimeoutError:
            await command.end()
            raise DriverError(
                f"{shlex.join(argv)} did not end within {seconds:g} s on {login.guest}"
            ) from None
        except asyncssh.ChannelOpenError:
            raise
        except (OSError, asyncssh.Error) as error:
            _drop(self._guest(login), connection)
            raise DriverError(
                f"the connection to {login.guest} was lost while {argv[0]} was running: {text_of(error)}",
                hint="was the guest switched off, rebooted or paused? kvm-compose status",
            ) from error
        except BaseException:  # cancelled, or raised by on_line
            await command.end()
            raise

    async def reach(self, login: Login) -> socket.socket:
        try:
            return await reach(login)
        except OSError as error:
            raise _unreachable(login, error) from error

    async def disconnect(self, alias: str) -> None:
        """Close the connections to a guest."""
        for login in [login for login in self._guests if login.alias == alias]:
            guest = self._guests.pop(login)
            if guest.connection is not None:
                guest.connection.abort()

    async def host_key(self, login: Login) -> str | None:
        try:
            return await in_thread(known_hosts(login).key, login.alias, login.life)
        except OSError as error:
            raise DriverError(f"cannot read {login.known_hosts}: {error.strerror}") from error

    async def expect(self, login: Login, key: str) -> None:
        await self.disconnect(login.alias)
        try:
            await in_thread(known_hosts(login).note, login.alias, key, login.life)
        except (OSError, ValueError) as error:
            raise DriverError(f"cannot write {login.known_hosts}: {text_of(error)}") from error

    async def forget(self, login: Login) -> None:
        await self.disconnect(login.alias)
        try:
            await in_thread(known_hosts(login).forget, login.alias)
        except OSError as error:
            raise DriverError(f"cannot write {login.known_hosts}: {error.strerror}") from error

    async def close(self) -> None:
        """Close all connections."""
        guests, self._guests = self._guests, {}
        for guest in guests.values():
            if guest.connection is not None:
                guest.connection.abort()
                await guest.connection.wait_closed()

    def _guest(self, login: Login) -> _Guest:
        guest = self._guests.get(login)
        if guest is None:
            guest = _Guest(guard=asyncio.Lock(), sessions=asyncio.Semaphore(_SESSIONS))
            self._guests[login] = guest
        return guest

    async def _live_connection(self, login: Login) -> asyncssh.SSHClientConnection:
        """Return a connection that has answered recently: the open one, or a new one. Raises DriverError."""
        guest = self._guest(login)
        try:
            connection = await self._connection(login)
            if time.monotonic() - guest.heard < KEEPALIVE_SECONDS:
                return connection
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.run("true", **SILENT)
            except asyncssh.ChannelOpenError:
                pass  # this is an answer, too
            except (OSError, asyncssh.Error):
                _drop(guest, connection)
                connection = await self._connection(login)
        except (OSError, asyncssh.Error) as error:
            raise _unreachable(login, error) from error
        guest.heard = time.monotonic()
        return connection

    async def _connection(self, login: Login) -> asyncssh.SSHClientConnection:
        """Return the open connection, or a new one."""
        guest = self._guest(login)
        async with guest.guard:
            if guest.connection is None or guest.connection.is_closed():
                guest.connection = await connect(login)
                guest.heard = time.monotonic()
            return guest.connection

    async def _until_ready(self, login: Login, progress: _Progress) -> None:
        pauses = itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))
        for pause in pauses:
            try:
                connection = await self._connection(login)
                progress.logged_in()
                done = await connection.run(WAIT_UNTIL_READY, **SILENT)
                if done.exit_status == 0:
                    return
            except (OSError, asyncssh.Error) as error:
                progress.failed(error)
            await asyncio.sleep(pause)


def _drop(guest: _Guest, connection: asyncssh.SSHClientConnection) -> None:
    if guest.connection is connection:
        guest.connection = None
    connection.abort()


class _Progress:
    """How far the attempt to log in to a guest has come."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._refused_since: float | None = None
        self.reached = f"nothing has answered at {login.address} port {login.port} yet"
        self.hint: str | None = None

    def logged_in(self) -> None:
        self._refused_since = None
        self.reached = "login works, but the first-boot set-up (cloud-init) is not complete"
        self.hint = "see /var/log/cloud-init-output.log in the guest"

    def failed(self, error: Exception) -> None:
        """Record what failed. Raises DriverError when further attempts are useless."""
        login = self._login
        where = f"{login.address} port {login.port}"
        if isinstance(error, asyncssh.PermissionDenied):
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            self.reached = f"{where} answers, but refuses the key {login.identity_file} for {login.user}"
            self.hint = "was it set up with another key? kvm-compose up --provision replaces its disk"
            if now - self._refused_since > _REFUSES_FOR_GOOD:
                raise DriverError(f"cannot log in to {login.guest}: {self.reached}", hint=self.hint)
            return
        self._refused_since = None
        self.hint = "see its console: kvm-compose console"
        if isinstance(error, ConnectionRefusedError):
            self.reached = f"{login.address} is up, but nothing listens on port {login.port} (no SSH server)"
        elif isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in _NO_ROUTE):
            self.reached = f"nothing answers at {where} (no route to it, or it has not booted)"
        else:
            self.reached = f"{where} answers, but the connection was lost: {text_of(error)}"


def _unreachable(login: Login, error: Exception) -> DriverError:
    progress = _Progress(login)
    progress.failed(error)
    return DriverError(f"cannot reach {login.guest}: {progress.reached}", hint=progress.hint)
