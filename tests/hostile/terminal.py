"""Run a command on a terminal, as a user does."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECONDS = 60


def on_terminal(
    argv: Sequence[str], environment: Mapping[str, str], folder: Path, prompt: str, typed: bytes
) -> tuple[int, str]:
    """Run it, type something once it asks with ``prompt``; its status and all that the terminal showed.

    What is typed goes through the terminal: Ctrl-C (3) is a signal, Ctrl-D (4) the end of the input.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        argv, env=dict(environment), cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (a test has no threads)
    )  # fmt: skip
    os.close(theirs)
    shown, answered = "", False
    deadline = time.monotonic() + _SECONDS
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.2)[0]:
                if answered and typed == b"\x03":  # one that came just before the program read is not noticed
                    os.write(ours, typed)
                continue
            try:
                data = os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not data:
                break
            shown += data.decode(errors="replace")
            if prompt in shown and not answered:
                answered = True
                os.write(ours, typed)
        return process.wait(max(0.1, deadline - time.monotonic())), shown.replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
