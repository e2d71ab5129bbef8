"""Consoles of a simulated host."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kvmcompose.hosts.fake import SimulatedHost

_CONSOLE = b"(a fake console)\r\n\x1b[32mOK\x1b[0m\x1b]0;title\x07 \x9b31mready\xff\r\nlogin: "


class FakeConsoleLogs:
    """See ``ConsoleLogs``. Every guest has printed the same."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def read_from(
        self, path: Path, after: int | None, most: int, *, wait: int = 0
    ) -> tuple[int, bytes]:
        await self._host.call("read_from", path.name)
        if after == len(_CONSOLE):  # it prints nothing more
            await asyncio.sleep(wait)
        start = after if after is not None and after <= len(_CONSOLE) else 0
        return start, _CONSOLE[start : start + most]

    async def wait_for_text(self, path: Path, text: str) -> None:
        """Whatever is waited for, a fake guest has printed it."""
        await self._host.call("wait_for_text", f"{path.name}:{text}")

    async def read_tail(self, path: Path, lines: int) -> str:
        await self._host.call("read_tail", path.name)
        return "\n".join(["(a fake console)"][:lines])
