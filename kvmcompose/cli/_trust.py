"""Asks the user to consent to what a project does to the host."""

from __future__ import annotations

import sys
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kvmcompose.build.trust import Asked
    from kvmcompose.monitor.console import Console


def settle(folder: Path, allow_paths: Sequence[str], console: Console, *, yes: bool) -> None:
    """Return when the user has consented to what a built project does. Raises RefusedError."""
    from kvmcompose.build.trust import asked_by, given_by_variable

    if not given_by_variable():
        settle_asked(folder, lambda: asked_by(folder, allow_paths), console, yes=yes)


def settle_asked(folder: Path, asked_now: Callable[[], Asked], console: Console, *, yes: bool) -> None:
    """Return when the user has consented, now or before. Raises RefusedError."""
    from kvmcompose.build.trust import record_consent, refuse_untrusted

    asked = asked_now()
    if asked.trusted:
        return
    if yes:
        record_consent(folder, asked)
    elif asks(asked, console):
        record_consent(folder, asked)
        refuse_untrusted(asked_now())  # what was added during the question
    else:
        refuse_untrusted(asked)


def asks(asked: Asked, console: Console) -> bool:
    """Ask the user at a terminal for consent to what is new. Returns False without a terminal."""
    from kvmcompose.build.trust import listed

    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    console.talk(f"{asked.project} does this to the host:\n{listed(asked.new)}")
    answer = ""
    termios.tcflush(sys.stdin, termios.TCIFLUSH)  # pasted commands must not answer the question
    try:
        sys.stderr.write("Trust it? [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline(16)
    finally:
        if not answer:  # after Ctrl-D or Ctrl-C the line is not terminated
            sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")
