"""What is inside the containers of one engine: commands, files, and what they print."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from kvmcompose.core.access import TERM, TerminalSize
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError, NoSuchPathError
from kvmcompose.hosts.lines import Lines, OnLine, Pieces
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.execution import Execution
from kvmcompose.providers.containers.ownership import ContainerOwnership, identity_in
from kvmcompose.providers.containers.streaming import outputs
from kvmcompose.providers.containers.terminal import EngineTerminal


class EngineInside:
    """See ``ContainerInside``. ``runner`` runs programs on the engine's host: it ends commands."""

    def __init__(self, engine: EngineConnection, runner: CommandRunner) -> None:
        self._engine = engine
        self._runner = runner
        self._ownership = ContainerOwnership(engine, runner.name)

    async def run(
        self,
        project: str,
        name: str,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str = "",
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        doing = f"run {argv[0]} in the container {name}"
        identity = await self._running(project, name, doing)
        execution = Execution(self._engine, self._runner, identity, doing)
        try:
            async with asyncio.timeout(seconds):
                return await execution.run(argv, on_line, user=user, stdin=stdin)
        except TimeoutError:
            raise DriverError(f"cannot {doing}: it has not ended within {seconds:g} s") from None

    @asynccontextmanager
    async def terminal(
        self, project: str, name: str, argv: Sequence[str], size: TerminalSize
    ) -> AsyncGenerator[EngineTerminal]:
        doing = f"open a terminal in the container {name}"
        identity = await self._running(project, name, doing)
        made = EngineTerminal(self._engine, self._runner, identity, doing)
        async with made.opened(argv, environment={"TERM": TERM}, size=size) as opened:
            yield opened

    async def _running(self, project: str, name: str, doing: str) -> str:
        """Return the ID of a container of the project. Raises DriverError for one that does not run."""
        identity, state = await self._ownership.look(
            project, name, doing, lambda row: (identity_in(row), {**row["State"]})
        )
        if not state.get("Running") or state.get("Paused"):
            raise DriverError(f"cannot {doing}: it is {'paused' if state.get('Paused') else 'not running'}")
        return identity

    async def logs(
        self, project: str, name: str, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[str]:
        doing = f"read the log of the container {name}"
        identity, has_terminal = await self._ownership.look(
            project, name, doing, lambda row: (identity_in(row), bool(row["Config"].get("Tty")))
        )
        parameters = {
            "stdout": "1",
            "stderr": "1",
            "tail": "all" if tail is None else str(tail),
            "follow": "1" if follow else "0",
        }
        waiting: list[str] = []
        lines = Lines(waiting.append)
        path = ("containers", identity, "logs")
        async with self._engine.stream(doing, "GET", path, parameters=parameters) as stream:
            raw = stream.read()
            async for piece in raw if has_terminal else outputs(raw):
                lines.feed(piece)
                for line in waiting:
                    yield line
                waiting.clear()
        lines.end()
        for line in waiting:
            yield line

    async def put(self, project: str, name: str, folder: str, archive: Pieces) -> None:
        doing = f"copy files into the container {name}"
        path = ("containers", await self._ownership.look(project, name, doing, identity_in), "archive")
        headers = {"Content-Type": "application/x-tar"}
        async with self._engine.stream(
            doing,
            "PUT",
            path,
            parameters={"path": folder},
            headers=headers,
            body=archive,
            missing=_no_path(doing, folder),
        ) as stream:
            async for _ in stream.read():
                pass

    async def get(self, project: str, name: str, path: str) -> AsyncGenerator[bytes]:
        doing = f"copy files from the container {name}"
        where = ("containers", await self._ownership.look(project, name, doing, identity_in), "archive")
        missing = _no_path(doing, path)
        async with self._engine.stream(
            doing, "GET", where, parameters={"path": path}, missing=missing
        ) as stream:
            async for piece in stream.read():
                yield piece


def _no_path(doing: str, path: str) -> NoSuchPathError:
    return NoSuchPathError(f"cannot {doing}: no such file or folder: {path}")
