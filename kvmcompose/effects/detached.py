"""Processes that outlive the one that starts them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class Detached:
    """A program in a session of its own: neither Ctrl-C nor the end of the terminal reaches it.

    Not a ``subprocess.Popen``, which is not meant to be left behind. What it says is added to ``log``, a
    file for its owner only; its standard input is empty. Raises OSError.
    """

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self.pid = os.posix_spawn(
                argv[0],
                list(argv),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, handle, 1),
                    (os.POSIX_SPAWN_DUP2, handle, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(handle)
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status (minus the signal that ended it), None while it runs."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has asked for it
                self._status = 0
            else:
                self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status
