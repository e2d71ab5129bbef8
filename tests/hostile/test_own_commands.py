"""A program that the server runs as a user, and that does not want to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.owner_command import OwnerCommand, account_of

#: Its child has a session of its own, and the same pipes.
_LEAVES_A_CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setsid()
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
"""


def command(folder: Path, program: str, seconds: float) -> OwnerCommand:
    return OwnerCommand(
        "the command",
        [sys.executable, "-c", program],
        account=account_of(os.geteuid()),
        folder=folder,
        environment={},
        seconds=seconds,
    )


def open_pipes() -> int:
    """Return how many pipes this process has open."""
    return sum("pipe:" in link for link in map(_link, Path("/proc/self/fd").iterdir()))


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:  # the folder's own
        return ""


def _runs(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("rest", ["time.sleep(60)", ""], ids=["runs on", "has ended"])
def test_one_whose_child_keeps_the_pipes_open_ends_all_the_same(tmp_path: Path, rest: str) -> None:
    async def run() -> None:
        running = command(tmp_path, _LEAVES_A_CHILD + rest, 20)
        before_it = open_pipes()
        await running.start()
        lines = running.lines()
        child = int(await anext(lines))
        try:
            before = time.monotonic()
            async with asyncio.timeout(15):
                await lines.aclose()
            assert time.monotonic() - before < 10
            assert running.status in (None, 0)
            assert not _runs(running.pid)
            await asyncio.sleep(0.1)
            assert open_pipes() == before_it
        finally:
            os.kill(child, signal.SIGKILL)

    asyncio.run(run())


def test_one_that_says_nothing_in_time_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        running = command(tmp_path, _LEAVES_A_CHILD.replace("print(child, flush=True)", ""), 2)
        await running.start()
        async with asyncio.timeout(15):
            with pytest.raises(DriverError, match="did not end within 2 s"):
                await running.output()

    asyncio.run(run())
