"""Asks the user to consent to what a project does to the host."""

from __future__ import annotations

import argparse
import sys
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kvmcompose.build.trust import Asked
    from kvmcompose.monitor.console import Console


def add_consent_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that give consent without a question."""
    parser.add_argument(
        "--trust", action="store_true", help="consent to what the testbed does to the host (see trust)"
    )
    parser.add_argument(
        "--consent",
        action="append",
        default=[],
        metavar="SHA256",
        help="consent to exactly the list with this digest, which plan --json and --message-format json show"
        " (may be repeated)",
    )


def settle(folder: Path, arguments: argparse.Namespace, console: Console) -> None:
    """Return when the user has consented to what a built project does. Raises ConsentError."""
    from kvmcompose.build.trust import asked_by, given_by_variable

    if not given_by_variable():
        settle_asked(folder, lambda: asked_by(folder, arguments.allow_path), arguments, console)


def settle_asked(
    folder: Path, asked_now: Callable[[], Asked], arguments: argparse.Namespace, console: Console
) -> None:
    """Return when the user has consented, now or before. Raises ConsentError."""
    from kvmcompose.build.trust import record_consent, refuse_untrusted

    asked = asked_now()
    if asked.trusted:
        return
    if arguments.trust or asked.request.digest in arguments.consent:
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
