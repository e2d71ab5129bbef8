"""Commands in processes of their own that are forked from one which has imported the server.

To import it takes most of the time in which a server starts, and there are hundreds of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["kvmcompose.cli.main", "kvmcompose.server.run", "kvmcompose.providers.fake"])


def _run(words: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, goal in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(descriptor, goal)
    os.close(nothing)
    os.close(out)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["kvm-compose", *words]
    from kvmcompose.cli._entry import main  # noqa: PLC0415 (what the installed command calls)

    sys.exit(main())


class Forked:
    """A kvm-compose command that runs in the background, as subprocess.Popen has it."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """What it says is appended to ``log``."""
        self._process = _CONTEXT.Process(
            target=_run, args=(list(words), dict(environment), str(log)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return its exit status, None as long as it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, for at most ``timeout`` seconds. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired("kvm-compose", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)
