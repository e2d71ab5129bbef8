"""One command in a running container, which can be ended.

The engines' API starts commands and shows their process on the host, but ends none: closing the connection
leaves them running. So the process is ended on the host, with the group that it leads.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any

from docker import APIClient
from docker.errors import NotFound

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Lines, OnLine, Pieces
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.streaming import EngineStream, outputs

log = logging.getLogger(__name__)

#: How long to wait for the exit status once the output has ended, in seconds, and how often to look.
_STATUS_SECONDS, _LOOK_SECONDS = 10.0, 0.05
#: How often to look whether a command has ended, and how long its output is read then, in seconds.
_WATCH_SECONDS, _REST_SECONDS = 1.0, 1.5
#: The statuses of a command that cannot be started (docker-exec(1)), and the longest reason, in bytes.
_CANNOT_START, _LONGEST = (126, 127), 1 << 16
#: What Podman prints into the output of a command that ends without reading its input.
_PODMANS = re.compile(r"Error: (read|write) unixpacket @->/proc/self/fd/\d+/attach: ")
#: How long an engine may take to start a command that is to be ended, in seconds.
_START_SECONDS = 2.0
_ID = re.compile("[0-9a-f]{64}")
#: How long ending a command may take, in seconds.
_END_SECONDS = 15.0
#: The headers and the body of ``POST /exec/ID/start``.
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}
_REQUEST = b'{"Detach": false, "Tty": false}'
#: Arguments: the process, the container's ID, the first signal. A process is the container's if the engine's
#: program that watches it says so, or its control group. It leads a group: both engines' runtimes call
#: setsid(2).
_END = """\
parent=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null)
{ tr "\\0" "\\n" <"/proc/$parent/cmdline"; cat "/proc/$1/cgroup"; } 2>/dev/null | grep -qF "$2" || exit 0
kill -s "$3" -- "-$1" 2>/dev/null || kill -s "$3" "$1" 2>/dev/null || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
done
kill -s KILL -- "-$1" 2>/dev/null || true
"""


class Execution:
    """A command in the container with this ID. ``doing`` describes it in messages."""

    #: What ends it; it is killed after a second.
    signal = "TERM"

    def __init__(self, engine: EngineConnection, runner: CommandRunner, container: str, doing: str) -> None:
        self._engine = engine
        self._runner = runner
        self._container = container
        self._doing = doing
        self._id = ""

    async def run(
        self,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str,
        stdin: Pieces | None,
    ) -> int:
        """Run it to its end and return its exit status; cancelling ends it. See ``ContainerInside.run``."""

        def create(client: APIClient) -> str:
            made = client.exec_create(
                self._container,
                list(argv),
                stdin=stdin is not None,
                user=user,
            )
            return str(made["Id"])

        self._id = await self._engine.call(self._doing, create)
        try:
            complaints = await self._follow(on_line, stdin)
            status = await self._status()
        except BaseException:
            await self._end()
            raise
        if status in _CANNOT_START:  # otherwise: that a command has not read its input
            rest = Lines(on_line)
            rest.feed(complaints)
            rest.end()
        return status

    async def _follow(self, on_line: OnLine, stdin: Pieces | None) -> bytes:
        """Report what it prints until it has ended, while its input is sent.

        Returns what the engine says of it, such as why it cannot be started.
        """
        lines = Lines(lambda line: None if _PODMANS.match(line) else on_line(line))
        complaints = bytearray()
        async with self._engine.stream(
            self._doing, "POST", ("exec", self._id, "start"), headers=UPGRADE, body=_REQUEST
        ) as stream:
            feeding = asyncio.ensure_future(_feed(stream, stdin))
            reading = asyncio.ensure_future(_read(stream, lines, complaints))
            ending = asyncio.ensure_future(self._ended())
            tasks = (feeding, reading, ending)
            try:
                while not (reading.done() or ending.done()):
                    await asyncio.wait(
                        [each for each in tasks if not each.done()], return_when=asyncio.FIRST_COMPLETED
                    )
                    if feeding.done():
                        feeding.result()
                # the output may stay open: for a child of it, or for input that it has not read
                await asyncio.wait((reading,), timeout=_REST_SECONDS)
                if reading.done():
                    reading.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        lines.end()
        return bytes(complaints)

    async def _ended(self) -> None:
        """Return when the command has ended."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            found = await self._inspect()
            if found is None or (not found.get("Running") and found.get("ExitCode") is not None):
                return

    async def _status(self) -> int:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _STATUS_SECONDS
        while (found := await self._inspect()) is not None:
            if not found.get("Running") and found.get("ExitCode") is not None:
                return int(found["ExitCode"])
            if loop.time() > deadline:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        raise DriverError(f"cannot {self._doing}: the engine does not know its exit status")

    async def _inspect(self) -> dict[str, Any] | None:
        def inspect(client: APIClient) -> dict[str, Any] | None:
            try:
                return dict(client.exec_inspect(self._id))
            except NotFound:  # Podman forgets what has ended with its container
                return None

        return await self._engine.call(self._doing, inspect)

    async def _end(self) -> None:
        """End the command, also while this task is cancelled again."""
        ending = asyncio.ensure_future(self._kill())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await asyncio.wait((ending,), timeout=_END_SECONDS)
        except (DriverError, TimeoutError, ValueError, TypeError) as error:
            log.warning("cannot end a command in a container: %s", error)

    async def _kill(self) -> None:
        async with asyncio.timeout(_END_SECONDS):
            found = await self._running()
            # every process would be one of a container without an ID
            if found is None or _ID.fullmatch(self._container) is None or int(found["Pid"]) <= 1:
                return
            argv = ["sh", "-c", _END, "sh", str(int(found["Pid"])), self._container, self.signal]
            await self._runner.run(argv, privileged=True, check=False)

    async def _running(self) -> dict[str, Any] | None:
        """Return it once it runs, None if it has ended: an engine starts it after it has answered."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_SECONDS
        while (found := await self._inspect()) is not None:
            if found.get("Running") and found.get("Pid"):
                return found
            if found.get("ExitCode") or loop.time() > deadline:  # of one that has not run it is None, or 0
                return None
            await asyncio.sleep(_LOOK_SECONDS)
        return None


async def _read(stream: EngineStream, lines: Lines, complaints: bytearray) -> None:
    def complain(piece: bytes) -> None:
        complaints.extend(piece[: _LONGEST - len(complaints)])

    async for piece in outputs(stream.read(), complain):
        lines.feed(piece)


async def _feed(stream: EngineStream, stdin: Pieces | None) -> None:
    if stdin is None:
        return
    try:
        async for piece in stdin:
            await stream.write(piece)
        stream.write_end()
    except OSError:  # the command has ended, or closed its input
        return
