"""Programs on another testbed host, through SSH."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
from collections.abc import Sequence

import asyncssh

from kvmcompose.server.drivers import DriverError
from kvmcompose.server.drivers._host_connection import HostConnection
from kvmcompose.server.drivers._ssh_connection import words_of
from kvmcompose.server.drivers.machine import (
    GRACE,
    SYSTEM_PATH,
    Completed,
    as_root,
    failure,
    is_not_installed,
    not_installed,
    pasteable,
)

log = logging.getLogger(__name__)

#: What a time limit on the host may take longer than ours would, in seconds.
_SLACK = 10.0
#: How timeout(1) ends when it has ended a command.
_TIMED_OUT = 124


class RemoteMachine:
    """See ``Machine``. What is cancelled is ended there as far as sshd lets us, else by its time limit."""

    def __init__(self, connection: HostConnection) -> None:
        self.name = connection.host.name
        self._connection = connection

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        """As Machine says. Raises HostLostError when the connection is lost, whatever became of it there."""
        log.debug("%s$ %s", self.name, pasteable(argv, stdin, privileged=privileged))
        words = self._words(argv, seconds, privileged=privileged)
        async with self._connection.sessions:
            try:
                completed = await self._run(words, stdin, seconds)
            except TimeoutError:
                raise self._too_slow(argv, stdin, seconds, privileged=privileged) from None
        if completed.status == _TIMED_OUT and not completed.stderr:
            raise self._too_slow(argv, stdin, seconds, privileged=privileged)
        if is_not_installed(completed):
            raise not_installed(argv[0], self.name)
        if check and completed.status != 0:
            raise failure(argv, completed, self.name, stdin=stdin, privileged=privileged)
        return completed

    def _words(self, argv: Sequence[str], seconds: float, *, privileged: bool) -> str:
        """One line for the user's shell there, which it becomes: so signals reach the command."""
        if privileged and self._connection.user != "root":
            command = as_root(argv, seconds)
        else:
            command = ["timeout", f"--kill-after={GRACE}", f"{seconds:g}", *argv]
        return f'exec env LC_ALL=C "PATH=$PATH:{SYSTEM_PATH}" {shlex.join(command)}'

    async def _run(self, words: str, stdin: bytes | None, seconds: float) -> Completed:
        connection = await self._connection.get()
        try:
            source = asyncssh.PIPE if stdin is not None else asyncssh.DEVNULL
            process = await connection.create_process(words, stdin=source, encoding=None)
        except asyncssh.ChannelOpenError as error:
            if connection.is_closed():
                raise self._connection.lost(error) from error
            raise DriverError(f"{self._connection.where} runs no program: {words_of(error)}") from error
        except (OSError, asyncssh.Error) as error:
            raise self._connection.lost(error) from error
        try:
            async with asyncio.timeout(seconds + _SLACK):
                stdout, stderr = await process.communicate(stdin)
        except (asyncssh.Error, BrokenPipeError, ConnectionError) as error:
            raise self._connection.lost(error) from error
        except BaseException:
            with contextlib.suppress(OSError, asyncssh.Error):
                process.send_signal("TERM")
            raise
        finally:
            process.close()
        if process.returncode is None:
            raise self._connection.lost(asyncssh.ConnectionLost("it ended without a status"))
        return Completed(process.returncode, stdout or b"", stderr or b"")

    def _too_slow(
        self, argv: Sequence[str], stdin: bytes | None, seconds: float, *, privileged: bool
    ) -> DriverError:
        return DriverError(
            f"{argv[0]} did not end within {seconds:g} s on {self.name}",
            hint=f"to see it yourself, run there: {pasteable(argv, stdin, privileged=privileged)}",
        )
