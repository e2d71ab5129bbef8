"""The terminals of simulated containers: a shell that echoes, and knows its size."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence

from kvmcompose.core.access import TerminalSize
from kvmcompose.hosts.fake_terminals import connected, shell

_CHUNK = 1 << 15


class FakeTerminal:
    """See ``Terminal``. ``stty size`` prints rows and columns, ``exit N`` ends the shell."""

    def __init__(self, size: TerminalSize) -> None:
        self._size = size
        self._exit_status = 0
        self._endpoint: socket.socket
        self._endpoint, self._task = connected(shell(self._command))

    async def read(self) -> AsyncGenerator[bytes]:
        yield b"# "
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._endpoint, _CHUNK):
            yield data

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._endpoint, data)

    def resize(self, size: TerminalSize) -> None:
        self._size = size

    async def status(self) -> int:
        await asyncio.wait((self._task,))
        return self._exit_status

    def kill(self) -> None:
        """End it, as its container does."""
        self._exit_status = 137
        self._task.cancel()

    async def close(self) -> None:
        """End it, as its client does."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._endpoint.close()

    def _command(self, words: Sequence[str]) -> str | None:
        match words:
            case ["stty", "size"]:
                return f"{self._size.rows} {self._size.columns}"
            case ["exit", *status]:
                self._exit_status = int(status[0]) if status and status[0].isdecimal() else 0
                raise EOFError
        return None
