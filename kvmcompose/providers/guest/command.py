"""Runs one command in a guest such that it can be ended, and reports its output line by line.

The scripts are for every way into a guest with a shell.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import signal as signals
from collections.abc import Sequence

import asyncssh

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Lines, OnLine, Pieces
from kvmcompose.hosts.ssh import BEGIN_SECONDS, SILENT, text_of, unsent
from kvmcompose.providers.guest.connection import connect
from kvmcompose.providers.guest.interface import Login

log = logging.getLogger(__name__)

KILL_SECONDS = 15.0
#: How long to read the output of background processes after a command has exited, in seconds.
_REST_SECONDS = 1.5
#: How much input may wait for the network, in bytes, and how often to look whether it still does, in seconds.
_MOST_INPUT = 1 << 18
_LOOK_SECONDS = 0.02

#: Starts a command in a session of its own. ``exit`` keeps the shell from replacing itself by setsid, which
#: would not wait for the command. So this shell exists as long as the command does, and is found by the mark
#: in front of this script. The command is looked up first: busybox's shell would prefer its own version, such
#: as a ping that lacks root's rights.
START = """\
exec 2>&1
case "$1" in */*) ;; *)
    path=$(command -v "$1")
    case "$path" in /*) shift && set -- "$path" "$@" ;; esac ;;
esac
if command -v setsid >/dev/null; then setsid "$@"; else "$@"; fi
exit $?"""
#: Ends a command: the process with its mark in the first line of the command line, all descendants, and all
#: processes of their sessions. The mark is passed on standard input, so that this shell does not match
#: itself. Uses only builtins: starting programs is slow under emulation, and busybox's grep stops at the
#: first zero byte.
END = """\
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
#: Only root can end what was started with sudo.
END_AS_ROOT = """\
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then exec sudo -n sh -c "$0"; else exec sh -c "$0"; fi"""


#: Ends when the first-boot set-up is complete. After a few looks a second apart: each starts a program, and a
#: guest that is emulated would spend a tenth of its boot on them.
WAIT_UNTIL_READY = """\
looks=0
until [ -e /etc/nocloud/ready ]; do
    looks=$((looks + 1))
    if [ $looks -gt 10 ]; then sleep 1; else sleep 0.3 2>/dev/null || sleep 1; fi
done
"""


class _Session(asyncssh.SSHClientSession[bytes]):
    """Receives a command's output, and detects its end.

    A command has ended when the guest closes the channel, or when no output has arrived for some time after
    the exit status: background processes of a command may keep its output open for ever.
    """

    def __init__(self, lines: Lines) -> None:
        self.over = asyncio.Event()
        self.status: int | None = None
        self.error: Exception | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self._lines = lines
        self._rest: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes, _datatype: int | None) -> None:
        try:
            self._lines.feed(data)
        except Exception as error:  # noqa: BLE001 - raised by on_line; raised again where the command is followed
            self.error = self.error or error
            self.over.set()
        if self._rest is not None:
            self._wait_for_the_rest()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def eof_received(self) -> bool:
        return True  # the status may still come

    def exit_status_received(self, status: int) -> None:
        self.status = status
        self._wait_for_the_rest()

    def exit_signal_received(self, signal: str, _core: bool, _message: str, _language: str) -> None:
        """A signal ended the outer shell; one that ends the shell's child becomes an exit status."""
        self.status = 128 + getattr(signals, f"SIG{signal}", 0)
        self._wait_for_the_rest()

    def connection_lost(self, error: Exception | None) -> None:
        self.error = self.error or error
        self.over.set()

    def _wait_for_the_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = asyncio.get_running_loop().call_later(_REST_SECONDS, self.over.set)


class GuestCommand:
    """A command in a guest."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        stdin: Pieces | None = None,
    ) -> None:
        self._stdin = stdin
        self._connection = connection
        self._login = login
        self._mark = f"kvm-compose-{secrets.token_hex(8)}"
        self._words = shlex.join(["sh", "-c", f": {self._mark}\n{START}", "sh", *argv])
        self._lines = Lines(on_line)

    async def follow(self) -> int:
        """Report its lines until it ends; return its exit status."""
        session = _Session(self._lines)
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                channel, _ = await self._connection.create_session(
                    lambda: session, self._words, encoding=None
                )
        except TimeoutError:
            raise asyncssh.ConnectionLost(f"it was not started within {BEGIN_SECONDS:g} s") from None
        sending: asyncio.Task[None] | None = None
        try:
            if self._stdin is None:
                channel.write_eof()
            else:
                sending = asyncio.create_task(self._send(channel, session, self._stdin))
            await session.over.wait()
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            channel.close()
        if session.status is None or session.error is not None:
            raise session.error or asyncssh.ConnectionLost("it ended without a status")
        self._lines.end()
        return session.status

    async def _send(
        self, channel: asyncssh.SSHClientChannel[bytes], session: _Session, stdin: Pieces
    ) -> None:
        """Send the input and its end, no faster than the command reads it."""
        try:
            async for chunk in stdin:
                channel.write(chunk)
                await session.writable.wait()
                while unsent(self._connection) > _MOST_INPUT:  # noqa: ASYNC110 (a transport has no event)
                    await asyncio.sleep(_LOOK_SECONDS)
            channel.write_eof()
        except BrokenPipeError:
            pass  # the command has ended without reading all of it
        except Exception as error:  # noqa: BLE001 - raised by the input; raised again where the command is followed
            session.error = session.error or error
            session.over.set()

    async def end(self) -> None:
        """End it in the guest. Logs a failure: when the guest does not answer, nothing more can be done."""
        try:
            async with asyncio.timeout(KILL_SECONDS):
                try:
                    status = await self._end_on(self._connection)
                except asyncssh.ChannelOpenError:
                    alone = await connect(self._login)
                    try:
                        status = await self._end_on(alone)
                    finally:
                        alone.abort()
        except (DriverError, OSError, asyncssh.Error) as error:
            log.warning("cannot end a command in %s: %s", self._login.guest, text_of(error))
        else:
            if status != 0:
                log.warning("a command in %s did not end", self._login.guest)

    async def _end_on(self, connection: asyncssh.SSHClientConnection) -> int | None:
        words = shlex.join(["sh", "-c", END_AS_ROOT, END])
        done = await connection.run(
            words, **(SILENT | {"stdin": asyncssh.PIPE, "input": f"{self._mark}\n".encode()})
        )
        return done.exit_status
