"""A shell in a guest, on the terminal of this process."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from kvmcompose.core.access import MOST_CHARACTERS, TerminalSize
from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    from kvmcompose.cli._server import Target

#: As ssh(1) where the connection was lost, or the user has left.
_LOST = 255


def shell_in(target: Target, guest: str) -> int:
    """Open a shell in a guest that is entered through the server, and return its exit status."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise KvmComposeError(
            f"{guest} is not entered by SSH, and a shell in it requires a terminal",
            hint=f"without one: kvm-compose exec -i {guest} -- COMMAND",
        )
    source, output = sys.stdin.fileno(), sys.stdout.fileno()
    with _resizes() as resized, _raw(source):
        status = target.server.run_shell(
            target.name, guest, source=source, target=output, resized=resized, size=lambda: _size(output)
        )
    return _LOST if status is None else status


def _size(terminal: int) -> TerminalSize:
    found = os.get_terminal_size(terminal)
    return TerminalSize(
        columns=min(max(found.columns, 1), MOST_CHARACTERS), rows=min(max(found.lines, 1), MOST_CHARACTERS)
    )


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Pass on each key as it is typed."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def _resizes() -> Iterator[int]:
    """Yield a file descriptor that has a byte whenever the terminal's size has changed."""
    reading, writing = os.pipe()
    # a signal must not wait for a full pipe
    fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)

    def note(_signal: int, _frame: object) -> None:
        with suppress(BlockingIOError):
            os.write(writing, b"w")

    before = signal.signal(signal.SIGWINCH, note)
    try:
        yield reading
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(writing)
        os.close(reading)
