"""What a machine's program prints, as it comes; and that it ends with whoever listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner

MACHINE = LocalRunner("main")


def script(tmp_path: Path, text: str) -> list[str]:
    """A program that notes its process before it does anything."""
    return ["sh", "-c", f'echo $$ >"$1"; {text}', "sh", str(tmp_path / "pid")]


def process_of(tmp_path: Path) -> int:
    return int((tmp_path / "pid").read_text())


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.monotonic()
    asyncio.run(asyncio.wait_for(work(), 20))
    return time.monotonic() - began


def test_all_of_it_comes_and_in_time(tmp_path: Path) -> None:
    async def run() -> None:
        stream = MACHINE.stream(["sh", "-c", 'echo first; read -r line; echo "$line"; sleep 0.5; echo last'])
        came = [(chunk, time.monotonic()) async for chunk in stream]
        assert b"".join(chunk for chunk, _ in came) == b"first\n\nlast\n"  # it has no standard input
        assert came[-1][1] - came[0][1] > 0.3

    timed(run)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("echo x; sleep 100", 1.5),
        ("yes", 1.5),  # that waits, as nobody takes what it prints
        ("trap '' TERM; echo x; while :; do sleep 0.2; done", 4),
        ("trap 'echo the end; exit 3' TERM; echo x; while :; do sleep 0.1; done", 1.5),
    ],
)
@pytest.mark.parametrize("cancelled", [False, True])
def test_who_has_had_enough_ends_it(tmp_path: Path, text: str, seconds: float, *, cancelled: bool) -> None:
    async def close() -> None:
        stream = MACHINE.stream(script(tmp_path, text))
        assert await anext(stream)
        await stream.aclose()
        assert is_gone(process_of(tmp_path))

    async def listen() -> None:
        async with contextlib.aclosing(MACHINE.stream(script(tmp_path, text))) as stream:
            async for _ in stream:
                await asyncio.sleep(0.01)

    async def cancel() -> None:
        task = asyncio.create_task(listen())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_gone(process_of(tmp_path))

    assert timed(cancel if cancelled else close) < seconds


def test_a_program_that_fails_says_so_in_its_own_name() -> None:
    async def run(*argv: str) -> None:
        async for _ in MACHINE.stream(argv):
            pass

    with pytest.raises(DriverError, match="'no-such-program' is not installed on main"):
        asyncio.run(run("no-such-program"))
    with pytest.raises(DriverError, match=r"sh failed with status 3 on main: sh: it broke$"):
        asyncio.run(run("sh", "-c", "echo sh: it broke >&2; echo 3 packets >&2; exit 3"))


def test_it_ends_with_the_server_whatever_ends_that(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from kvmcompose.hosts.local import LocalRunner
async def run():
    async for chunk in LocalRunner("main").stream(sys.argv[1:]):
        print(chunk, flush=True)
asyncio.run(run())
"""
    server = subprocess.Popen(
        [sys.executable, "-c", code, *script(tmp_path, "echo x; sleep 100")], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stdout.readline()
    pid = process_of(tmp_path)
    assert not is_gone(pid)
    os.kill(server.pid, 9)
    server.wait()
    server.stdout.close()
    deadline = time.monotonic() + 5
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
