"""Guests from inside, through asyncssh: one connection per guest, kept while it lives.

No agent, no configuration of the user's, no key but the one given.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import secrets
import shlex
import signal as signals
import socket
import time
from collections.abc import Sequence

import asyncssh
import msgspec

from kvmcompose.server.drivers import DriverError, Login, OnLine
from kvmcompose.server.drivers._known_hosts import KnownHosts

log = logging.getLogger(__name__)

#: A line that gets no end is cut after so many bytes.
LONGEST_LINE = 1 << 16
_CONNECT_SECONDS = 2.0
#: Key exchange and login; a guest among many that boot under emulation takes its time.
_LOGIN_SECONDS = 30.0
_PAUSES = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
#: A guest may listen before its first boot has put our key in its place. In seconds.
_REFUSES_FOR_GOOD = 30.0
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 3
#: sshd has ten sessions per connection (MaxSessions); some are left for those that end commands.
_SESSIONS = 7
_KILL_SECONDS = 15.0
#: How long a guest that was there may take to say that it still is.
_ANSWER_SECONDS = 20.0
#: How long to go on listening to what an ended command has left running.
_REST_SECONDS = 1.5

_WAIT_UNTIL_READY = "until [ -e /etc/nocloud/ready ]; do sleep 0.3 2>/dev/null || sleep 1; done"
#: Starts a command in a session of its own. The last words keep the shell from becoming setsid, which would
#: then not wait for the command; so this shell is there as long as the command is, and found again by the
#: mark that is put before this text. The command is looked up first: one
#: in busybox would take its own version of it, a ping without root's rights.
_START = """\
exec 2>&1
case "$1" in */*) ;; *)
    path=$(command -v "$1")
    case "$path" in /*) shift && set -- "$path" "$@" ;; esac ;;
esac
if command -v setsid >/dev/null; then setsid "$@"; else "$@"; fi
exit $?"""
#: Ends a command: whoever has its mark in the first line of the command line, all descendants, and all of
#: their sessions. The mark comes on standard input, so that this shell does not find itself. Builtins only:
#: each program takes its time under emulation, and grep in busybox reads no further than to the first zero.
_END = """\
read -r mark
all=" "
for file in /proc/[0-9]*/cmdline; do
    line=
    read -r line <"$file"
    case "$line" in *"$mark"*) pid=${file#/proc/} all="$all${pid%/*} " ;; esac
done 2>/dev/null
[ "$all" != " " ] || exit 0
collect() {
    found=yes
    while [ -n "$found" ]; do
        found=
        for stat in /proc/[0-9]*/stat; do
            read -r line 2>/dev/null <"$stat" || continue
            pid=${line%% *}
            case "$all" in *" $pid "*) continue ;; esac
            set -- ${line##*) }
            case "$all" in *" $2 "* | *" $4 "*) all="$all$pid " found=yes ;; esac
        done
    done
} 2>/dev/null
wait_for_end() {
    for _ in 1 2 3 4 5 6 7 8; do
        alive=
        for pid in $all; do
            read -r line <"/proc/$pid/stat" || continue
            case "${line##*) }" in [ZX]*) ;; *) alive=yes ;; esac
        done
        [ -n "$alive" ] || exit 0
        sleep 0.3 || sleep 1
    done
} 2>/dev/null
collect
kill -TERM $all 2>/dev/null
wait_for_end
collect
kill -KILL $all 2>/dev/null
wait_for_end
exit 1"""
#: What was started with sudo is root's to end.
_END_AS_ROOT = """\
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then exec sudo -n sh -c "$0"; else exec sh -c "$0"; fi"""

_NO_ROUTE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT}
#: Those of dropbear and OpenSSH, the shortest first.
_HOST_KEY_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-256",
    "rsa-sha2-512",
)
_RSA = "ssh-rsa"


class _Guest(msgspec.Struct):
    """What is kept of a guest: its connection, who may open another, how many sessions it may have.

    ``heard`` is when it last answered, by the monotonic clock.
    """

    guard: asyncio.Lock
    sessions: asyncio.Semaphore
    connection: asyncssh.SSHClientConnection | None = None
    heard: float = 0.0


class SshShell:
    """Guests that can be reached from this machine."""

    def __init__(self) -> None:
        self._guests: dict[Login, _Guest] = {}
        asyncssh.set_log_level(logging.WARNING)  # it tells of each connection and session

    async def wait_ready(self, login: Login, seconds: float) -> None:
        """Wait until the guest lets us in and its first-boot set-up has ended."""
        progress = _Progress(login)
        try:
            async with asyncio.timeout(seconds):
                await self._until_ready(login, progress)
        except TimeoutError:
            raise DriverError(
                f"{login.guest} was not ready within {seconds:.0f} s: {progress.reached}", hint=progress.hint
            ) from None

    async def run(
        self, login: Login, argv: Sequence[str], on_line: OnLine, *, seconds: float | None = None
    ) -> int:
        """Run a command; its exit status, or 128 + n when signal n ended it."""
        log.debug("$ ssh %s@%s -- %s", login.user, login.address, shlex.join(argv))
        guest = self._guest(login)
        async with guest.sessions:
            shared = await self._live_connection(login)
            try:
                return await self._run_on(shared, login, argv, on_line, seconds)
            except asyncssh.ChannelOpenError as error:
                # Nothing was started. sshd has a limit; dropbear (2022.83) refuses now and then while other
                # sessions of the connection come and go.
                log.debug("%s gives no further session: %s", login.guest, error)
            try:
                alone = await _connect(login)
            except (OSError, asyncssh.Error) as error:
                raise _unreachable(login, error) from error
            try:
                return await self._run_on(alone, login, argv, on_line, seconds)
            except asyncssh.ChannelOpenError as error:
                raise DriverError(f"{login.guest} does not run {argv[0]}: {_words(error)}") from error
            finally:
                alone.abort()

    async def _run_on(
        self,
        connection: asyncssh.SSHClientConnection,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        seconds: float | None,
    ) -> int:
        """Run a command; however this ends, the command does. Raises ChannelOpenError if it did not begin."""
        command = _Command(connection, login, argv, on_line)
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
                f"the connection to {login.guest} broke off while {argv[0]} ran there: {_words(error)}",
                hint="was the guest switched off or rebooted?",
            ) from error
        except BaseException:  # cancelled, or of on_line
            await command.end()
            raise

    async def forget(self, login: Login) -> None:
        """Forget the guest's host key: its disk is a new one."""
        guest = self._guests.pop(login, None)
        if guest is not None and guest.connection is not None:
            guest.connection.abort()
        try:
            await asyncio.to_thread(KnownHosts(login.known_hosts).forget, login.alias)
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
        """A connection that has answered of late: the one that is there, or a new one. Raises DriverError."""
        guest = self._guest(login)
        try:
            connection = await self._connection(login)
            if time.monotonic() - guest.heard < _KEEPALIVE_SECONDS:
                return connection
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.run("true", stdin=asyncssh.DEVNULL, encoding=None)
            except asyncssh.ChannelOpenError:
                pass  # that, too, is an answer
            except (OSError, asyncssh.Error):
                _drop(guest, connection)
                connection = await self._connection(login)
        except (OSError, asyncssh.Error) as error:
            raise _unreachable(login, error) from error
        guest.heard = time.monotonic()
        return connection

    async def _connection(self, login: Login) -> asyncssh.SSHClientConnection:
        """The guest's connection, or a new one."""
        guest = self._guest(login)
        async with guest.guard:
            if guest.connection is None or guest.connection.is_closed():
                guest.connection = await _connect(login)
                guest.heard = time.monotonic()
            return guest.connection

    async def _until_ready(self, login: Login, progress: _Progress) -> None:
        pauses = itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1]))
        for pause in pauses:
            try:
                connection = await self._connection(login)
                progress.let_in()
                done = await connection.run(_WAIT_UNTIL_READY, stdin=asyncssh.DEVNULL, encoding=None)
                if done.exit_status == 0:
                    return
            except (OSError, asyncssh.Error) as error:
                progress.met(error)
            await asyncio.sleep(pause)


def _drop(guest: _Guest, connection: asyncssh.SSHClientConnection) -> None:
    if guest.connection is connection:
        guest.connection = None
    connection.abort()


class _Progress:
    """How far we got on the way into a guest."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._refused_since: float | None = None
        self.reached = f"nothing answered at {login.address} port {login.port} yet"
        self.hint: str | None = None

    def let_in(self) -> None:
        self._refused_since = None
        self.reached = "it lets us in, but its first-boot set-up (cloud-init) has not ended"
        self.hint = "look at /var/log/cloud-init-output.log in the guest"

    def met(self, error: Exception) -> None:
        """Take note of what stopped us. Raises DriverError when there is no use in going on."""
        login = self._login
        where = f"{login.address} port {login.port}"
        if isinstance(error, asyncssh.PermissionDenied):
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            self.reached = f"{where} answers, but refuses the key {login.identity_file} for {login.user}"
            self.hint = "was it set up with another key? kvm-compose up --provision makes its disk anew"
            if now - self._refused_since > _REFUSES_FOR_GOOD:
                raise DriverError(f"cannot get into {login.guest}: {self.reached}", hint=self.hint)
            return
        self._refused_since = None
        self.hint = "its console tells more: kvm-compose console"
        if isinstance(error, ConnectionRefusedError):
            self.reached = f"{login.address} is up, but nothing listens on port {login.port} (no SSH server)"
        elif isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in _NO_ROUTE):
            self.reached = f"nothing answers at {where} (no route to it, or it has not booted)"
        else:
            self.reached = f"{where} answers, but the connection broke off: {_words(error)}"


def _unreachable(login: Login, error: Exception) -> DriverError:
    progress = _Progress(login)
    progress.met(error)
    return DriverError(f"cannot reach {login.guest}: {progress.reached}", hint=progress.hint)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


# -- one connection ------------------------------------------------------------------------------------


class _Client(asyncssh.SSHClient):
    """Judges host keys by what is noted; at first contact, any will do."""

    def __init__(self, noted: str | None) -> None:
        self.noted = noted
        self.shown = ""

    def validate_host_public_key(self, _host: str, _addr: str, _port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = " ".join(key.export_public_key("openssh").decode().split()[:2])
        return self.noted is None or self.shown == self.noted


async def _connect(login: Login) -> asyncssh.SSHClientConnection:
    """A new connection. Raises DriverError for what time does not mend, OSError or asyncssh.Error else."""
    known = KnownHosts(login.known_hosts)
    identity = await asyncio.to_thread(_identity, login)
    try:
        noted = await asyncio.to_thread(known.key, login.alias, login.life)
    except OSError as error:
        raise DriverError(f"cannot read {login.known_hosts}: {error.strerror}") from error
    client = _Client(noted)
    endpoint = await _reach(login.address, login.port)
    try:
        connection = await asyncssh.connect(
            login.address,
            sock=endpoint,
            client_factory=lambda: client,
            username=login.user,
            client_keys=[identity],
            # an empty file would mean the user's own; so the client is asked about every key
            known_hosts=lambda *_: ([], [], []),
            server_host_key_algs=_algorithms(noted),
            preferred_auth="publickey",
            agent_path=None,
            config=None,
            gss_host=None,
            compression_algs=None,
            connect_timeout=_LOGIN_SECONDS,
            login_timeout=_LOGIN_SECONDS,
            keepalive_interval=_KEEPALIVE_SECONDS,
            keepalive_count_max=_KEEPALIVE_COUNT,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        endpoint.close()
        raise _wrong_key(login, client) from error
    except BaseException:
        endpoint.close()
        raise
    if noted is None:
        try:
            await asyncio.to_thread(known.note, login.alias, client.shown, login.life)
        except OSError as error:
            connection.abort()
            raise DriverError(f"cannot write {login.known_hosts}: {error.strerror}") from error
    return connection


def _identity(login: Login) -> asyncssh.SSHKey:
    try:
        return asyncssh.read_private_key(login.identity_file)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise DriverError(
            f"cannot use the key {login.identity_file} to get into {login.guest}: {_words(error)}",
            hint="a key without a passphrase is needed, as nobody is asked",
        ) from error


async def _reach(address: str, port: int) -> socket.socket:
    """A connected socket, within a time that is short beside that of a login. Raises OSError."""
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(endpoint, (address, port))
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def _algorithms(noted: str | None) -> list[str]:
    """The kinds of host keys to ask for: that of the noted key first, or another would be shown."""
    kind = noted.split(" ", 1)[0] if noted else ""
    first = [name for name in _HOST_KEY_ALGORITHMS if name == kind or (kind == _RSA and "rsa" in name)]
    return list(dict.fromkeys([*first, *_HOST_KEY_ALGORITHMS]))


def _wrong_key(login: Login, client: _Client) -> DriverError:
    return DriverError(
        f"{login.address} shows another host key than {login.guest} did at first contact:"
        f" {client.shown or 'a certificate'}, not {client.noted}",
        hint=f"if its disk was made anew by hand: ssh-keygen -R {login.alias} -f {login.known_hosts};"
        " else, something else answers at its address",
    )


# -- one command ---------------------------------------------------------------------------------------


class _Session(asyncssh.SSHClientSession[bytes]):
    """A command's output as it comes, and its end.

    The end is when the guest closes the channel, or when nothing has come for some time after the command's
    status: what a command leaves running may keep its output open for ever.
    """

    def __init__(self, lines: Lines) -> None:
        self.over = asyncio.Event()
        self.status: int | None = None
        self.error: Exception | None = None
        self._lines = lines
        self._rest: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes, _datatype: int | None) -> None:
        try:
            self._lines.feed(data)
        except Exception as error:  # noqa: BLE001 - of whoever listens; raised where the command is followed
            self.error = self.error or error
            self.over.set()
        if self._rest is not None:
            self._wait_for_the_rest()

    def eof_received(self) -> bool:
        return True  # the status may still come

    def exit_status_received(self, status: int) -> None:
        self.status = status
        self._wait_for_the_rest()

    def exit_signal_received(self, signal: str, _core: bool, _message: str, _language: str) -> None:
        """The outer shell itself was ended by a signal; of one that ended its child it makes a status."""
        self.status = 128 + getattr(signals, f"SIG{signal}", 0)
        self._wait_for_the_rest()

    def connection_lost(self, error: Exception | None) -> None:
        self.error = self.error or error
        self.over.set()

    def _wait_for_the_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = asyncio.get_running_loop().call_later(_REST_SECONDS, self.over.set)


class _Command:
    """A command in a guest."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, login: Login, argv: Sequence[str], on_line: OnLine
    ) -> None:
        self._connection = connection
        self._login = login
        self._mark = f"kvm-compose-{secrets.token_hex(8)}"
        self._words = shlex.join(["sh", "-c", f": {self._mark}\n{_START}", "sh", *argv])
        self._lines = Lines(on_line)

    async def follow(self) -> int:
        """Pass its lines on until it ends; its exit status."""
        session = _Session(self._lines)
        channel, _ = await self._connection.create_session(lambda: session, self._words, encoding=None)
        try:
            channel.write_eof()
            await session.over.wait()
        finally:
            channel.close()
        if session.status is None or session.error is not None:
            raise session.error or asyncssh.ConnectionLost("it ended without a status")
        self._lines.end()
        return session.status

    async def end(self) -> None:
        """End it in the guest. Nothing more is to be done when the guest does not answer any more."""
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                try:
                    status = await self._end_on(self._connection)
                except asyncssh.ChannelOpenError:
                    alone = await _connect(self._login)
                    try:
                        status = await self._end_on(alone)
                    finally:
                        alone.abort()
        except (DriverError, OSError, asyncssh.Error) as error:
            log.warning("a command in %s could not be ended: %s", self._login.guest, _words(error))
        else:
            if status != 0:
                log.warning("a command in %s did not end", self._login.guest)

    async def _end_on(self, connection: asyncssh.SSHClientConnection) -> int | None:
        words = shlex.join(["sh", "-c", _END_AS_ROOT, _END])
        done = await connection.run(words, input=f"{self._mark}\n".encode(), encoding=None)
        return done.exit_status


class Lines:
    """Bytes as they come, told as lines of text; one that is too long is cut into several."""

    def __init__(self, on_line: OnLine) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._tell(line)
        while len(rest) >= LONGEST_LINE:
            self._tell(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        self._rest = rest

    def end(self) -> None:
        """What has no end of line is a line, too."""
        if self._rest:
            self._tell(self._rest)
        self._rest = b""

    def _tell(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, LONGEST_LINE):
            self._on_line(line[start : start + LONGEST_LINE].decode(errors="replace").removesuffix("\r"))
