"""A server in a process of its own, forked: to import what a server needs takes a second of a processor.

Servers that start as those of users are in ``test_embedded.py`` and in tests that put a program before them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from forked import Forked
from kvmcompose.client.address import Address
from kvmcompose.client.remote import RemoteServer

_PYTHON = [sys.executable, "-m", "kvmcompose"]


def soonest(ask: Callable[[], object]) -> float:
    """Return the shortest time of three answers, in seconds: once a busy machine may be slow itself."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        ask()
        took.append(time.monotonic() - began)
    return min(took)


class Daemon:
    """``kvm-compose server --fake``; ``root`` is the folder of projects.

    Unless it is ``forked``, or where a program comes before it in its command line, Python starts for it.
    """

    def __init__(
        self,
        state: Path,
        root: Path,
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        *,
        forked: bool = True,
    ) -> None:
        self.state = state
        named = options.index("--socket") + 1 if "--socket" in options else 0
        self.socket = Path(options[named]) if named else state / "server.sock"
        self.log = root / "server.log"
        self._argv = [
            *_PYTHON, "server", "--fake", "--state-dir", str(state), "--project-root", str(root), *options,
        ]  # fmt: skip
        self._environment = {**os.environ, **(environment or {})}
        self._forked = forked
        self.process: subprocess.Popen[bytes] | Forked | None = None

    def start(self) -> None:
        """Start it and wait until it reports that it serves; its socket exists a little earlier."""
        self.spawn()
        assert self.process is not None
        self.wait_for(f"(process {self.process.pid})")

    def wait_for(self, text: str) -> None:
        """Wait until its output contains the text."""
        assert self.process is not None
        for _ in range(600):
            if text in self.said:
                return
            assert self.process.poll() is None, self.said
            time.sleep(0.05)
        raise AssertionError(self.said)

    def spawn(self) -> None:
        start, words = self._argv[: len(_PYTHON)], self._argv[len(_PYTHON) :]
        if self._forked and start == _PYTHON:
            self.log.touch()
            self.process = Forked(words, self._environment, self.log)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv, stdout=log, stderr=log, env=self._environment, stdin=subprocess.DEVNULL
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def address(self) -> Address:
        return Address(socket=self.socket)

    def client(self) -> RemoteServer:
        return RemoteServer(self.address)

    def kill(self) -> None:
        """Kill it, as ``kill -9`` does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it, and return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)
