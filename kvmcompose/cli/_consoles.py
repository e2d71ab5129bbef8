"""What the serial console of a guest has printed, for ``logs GUEST``."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from kvmcompose.cli._server import INTERRUPTED, Target, access_to, usage_error
from kvmcompose.core.plain import without_controls

if TYPE_CHECKING:
    import argparse

    from kvmcompose.monitor.console import Console

#: How long the server waits for news, in seconds: until a line is shown that has no end (a prompt, most
#: likely), and after that.
_QUIET_SECONDS, _WAIT_SECONDS = 2, 20
#: A guest that has not started yet is asked so often, in seconds: there is no file to wait for.
_PAUSE = 0.5
#: A longer line is split, in bytes.
_LONGEST = 1 << 16


class ConsoleLines:
    """Cuts the bytes of a console into lines that are safe to print."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LONGEST:
            lines.append(self._rest[:_LONGEST])
            self._rest = self._rest[_LONGEST:]
        return [_clean(line) for line in lines]

    def flush(self) -> list[str]:
        """Return the last line, even if it is not complete."""
        rest, self._rest = self._rest, b""
        return [_clean(rest)] if rest else []


def _clean(line: bytes) -> str:
    return without_controls(line.decode(errors="replace"))


def show_console(target: Target, arguments: argparse.Namespace, console: Console) -> int:
    """Print the end of the console, with ``--follow`` what it prints from now on as well."""
    given = {"--guest": arguments.guest, "--label": arguments.labels, "--list": arguments.list}
    given |= {"--action": arguments.action, "--json": arguments.json, "--timestamps": arguments.timestamps}
    for option, value in given.items():
        if value:
            raise usage_error(f"{option} is for logs of actions: it excludes a guest's console")
    guest = access_to(target, arguments.console).name
    cut = ConsoleLines()
    part = target.server.console(target.name, guest)
    lines = cut.feed(part.data)
    if part.start and lines:
        lines = lines[1:]  # the first one has no beginning
    if not arguments.follow:
        lines += cut.flush()
        if not lines:
            console.say(f"the console of {guest} has printed nothing since its last start")
    if arguments.tail is not None:
        lines = lines[max(0, len(lines) - arguments.tail) :]
    _print(lines, console)
    if not arguments.follow:
        return 0
    with suppress(KeyboardInterrupt):  # this is how users end it
        _follow(target, guest, part.start + len(part.data), cut, console)
    return INTERRUPTED


def follow_console(target: Target, guest: str, console: Console) -> int:
    """Print the end of the console, and what it prints from now on. Returns after Ctrl-C."""
    cut = ConsoleLines()
    with suppress(KeyboardInterrupt):
        part = target.server.console(target.name, guest)
        _print(cut.feed(part.data), console)
        _follow(target, guest, part.start + len(part.data), cut, console)
    return INTERRUPTED


def _follow(target: Target, guest: str, after: int, cut: ConsoleLines, console: Console) -> None:
    wait = _QUIET_SECONDS
    while True:
        asked = time.monotonic()
        part = target.server.console(target.name, guest, after, wait)
        if part.start < after:  # it was started again
            _print(cut.flush(), console)
        _print(cut.feed(part.data) if part.data else cut.flush(), console)
        after = part.start + len(part.data)
        wait = _QUIET_SECONDS if part.data else _WAIT_SECONDS
        if not part.data:
            time.sleep(max(0.0, asked + _PAUSE - time.monotonic()))


def _print(lines: list[str], console: Console) -> None:
    for line in lines:
        console.verbatim(line)
    sys.stdout.flush()
