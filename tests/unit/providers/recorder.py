"""A machine that runs nothing: it records commands and answers from a list."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Sequence

from kvmcompose.hosts.command import Completed, failure


class Recorder:
    """Answers are (part of the command line, status, stdout, stderr); without one, a command succeeds."""

    name = "main"

    def __init__(self, *answers: tuple[str, int, bytes, bytes]) -> None:
        self.answers = answers
        self.commands: list[list[str]] = []
        self.scripts: list[str] = []
        self.privileged: list[bool] = []

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        self.commands.append(list(argv))
        self.privileged.append(privileged)
        if stdin is not None:
            self.scripts.append(stdin.decode())
        line = " ".join(argv)
        for part, status, stdout, stderr in self.answers:
            if part in line:
                completed = Completed(status, stdout, stderr)
                if check and status != 0:
                    raise failure(argv, completed, self.name)
                return completed
        return Completed(0, b"", b"")

    async def attach(self, argv: Sequence[str], *, privileged: bool = False) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            theirs.sendall((await self.run(argv, privileged=privileged)).stdout)
        return ours

    async def stream(self, argv: Sequence[str], *, privileged: bool = False) -> AsyncGenerator[bytes]:
        completed = await self.run(argv, privileged=privileged)
        if completed.stdout:
            yield completed.stdout
