"""The two channels of the command line: data to stdout, talk to stderr.

What is written may have been named by a lab, a server or a guest, so whatever would act on the terminal is
shown as an escape. This is the place where that is done; only ``paint`` adds what does act.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from kvmcompose.core.errors import Problem, Severity
from kvmcompose.core.plain import plain, plain_json

Progress = Callable[[int, int | None], None]

_COLOURS = {
    "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36",
    "bold": "1", "dim": "2",
}  # fmt: skip
_REDRAW_SECONDS = 0.1
#: What ``paint`` makes: it ends as it began, so text of others that looks like it colours itself alone.
_PAINTED = re.compile(rf"(\x1b\[(?:{'|'.join(_COLOURS.values())})m)([^\x1b]*)(\x1b\[0m)")


def _clean(text: str) -> str:
    """The text with nothing that acts on a terminal but line breaks and what ``paint`` makes."""
    if text.isascii() and text.isprintable():
        return text
    parts = _PAINTED.split(text)
    return "".join(
        part if number % 4 in (1, 3) else plain(part, lines=True) for number, part in enumerate(parts)
    )


class Console:
    """Where a command writes. ``verbosity``: -1 quiet, 0 usual, 1 and more talkative."""

    def __init__(self, *, verbosity: int = 0, colour: bool | None = None) -> None:
        self.verbosity = verbosity
        self.on_terminal = sys.stderr.isatty()
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._colour = wanted if colour is None else colour and wanted
        self._bar = ""
        self._status = ""

    def data(self, text: str) -> None:
        """What was asked for: to stdout."""
        self._erase()
        sys.stdout.write(f"{_clean(text)}\n")
        self._put(self._status)

    def raw(self, data: bytes) -> None:
        """Bytes that were asked for: to stdout as they are, but for a terminal."""
        sys.stdout.flush()
        if sys.stdout.isatty():
            data = plain(data.decode(errors="replace"), lines=True).encode()
        sys.stdout.buffer.write(data)

    def json(self, value: Any) -> None:
        """A value as JSON to stdout, indented."""
        self._json(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")

    def json_line(self, value: Any) -> None:
        """A value as one line of JSON to stdout."""
        self._json(msgspec.json.encode(value) + b"\n")
        sys.stdout.flush()

    def _json(self, data: bytes) -> None:
        self.raw(plain_json(data) if sys.stdout.isatty() else data)

    def say(self, text: str) -> None:
        """What is going on: to stderr, unless told to be quiet."""
        if self.verbosity >= 0:
            self.talk(text)

    def detail(self, text: str) -> None:
        """What only those want to know who asked with ``-v``."""
        if self.verbosity > 0:
            self.talk(text)

    def warn(self, text: str) -> None:
        """What should not be missed, but stops nothing."""
        self.talk(f"{self.paint('warning:', 'yellow', sys.stderr)} {text}")

    def error(self, text: str) -> None:
        """What went wrong."""
        self.talk(f"{self.paint('error:', 'red', sys.stderr)} {text}")

    def problem(self, problem: Problem) -> None:
        """A problem of the input, with its place."""
        word = problem.severity.value
        colour = "red" if problem.severity is Severity.ERROR else "yellow"
        painted = self.paint(f"{word}:", colour, sys.stderr)
        self.talk(str(problem).replace(f": {word}: ", f": {painted} ", 1))

    def talk(self, text: str) -> None:
        """What is said even to those who asked for quiet: to stderr."""
        self._erase()
        sys.stderr.write(f"{_clean(text)}\n")
        self._put(self._status)

    def paint(self, text: str, colour: str, stream: Any = None) -> str:
        """The text in a colour, where the stream (stdout) is a terminal that wants colours."""
        if not (self._colour and (stream or sys.stdout).isatty()):
            return text
        return f"\x1b[{_COLOURS[colour]}m{plain(text, lines=True)}\x1b[0m"

    def table(self, rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
        """Columns as wide as they need to be, the last one as it is."""
        rows = [[plain(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        for number, row in enumerate((header, *rows)):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            line = "  ".join(cells).rstrip()
            self.data(self.paint(line, "bold") if number == 0 else line)

    @contextlib.contextmanager
    def progress(self, label: str, *, unit: str = "bytes") -> Iterator[Progress]:
        """A bar on a terminal, one line at the end otherwise. Call what you get with (done, total)."""
        drawn = 0.0
        latest: tuple[int, int | None] = (0, None)

        def advance(done: int, total: int | None) -> None:
            nonlocal drawn, latest
            latest = done, total
            now = time.monotonic()
            if self.on_terminal and self.verbosity >= 0 and now - drawn >= _REDRAW_SECONDS:
                drawn = now
                self._draw(label, done, total, unit)

        try:
            yield advance
        finally:
            self._erase()
            if not self.on_terminal and latest[0]:
                self.say(f"{label}: {_amount(latest[0], unit)}")

    def _draw(self, label: str, done: int, total: int | None, unit: str) -> None:
        amount = _amount(done, unit)
        width = shutil.get_terminal_size().columns - 1
        label = plain(label)
        text = f"{label}: {amount}"
        if total:
            share = min(done / total, 1.0)
            text = f"{label}: {share:4.0%} of {_amount(total, unit)} "
            room = min(width - len(text) - 2, 40)
            if room >= 10:  # noqa: PLR2004 (a shorter bar tells nothing)
                filled = int(room * share)
                text += f"[{'#' * filled}{'.' * (room - filled)}]"
        self._erase()
        self._put(text[:width])

    def status(self, text: str) -> None:
        """What is being done, on a terminal's last line, below all that is written; '' takes it away."""
        if self.on_terminal and self.verbosity >= 0:
            self._status = plain(text)[: shutil.get_terminal_size().columns - 1]
            self._erase()
            self._put(self._status)

    def _put(self, text: str) -> None:
        self._bar = text
        if text:
            sys.stdout.flush()
            sys.stderr.write(f"\r{text}")
            sys.stderr.flush()

    def _erase(self) -> None:
        if self._bar:
            sys.stderr.write(f"\r{' ' * len(self._bar)}\r")
            self._bar = ""


class ConsoleHandler(logging.Handler):
    """Says what the parts below report: what they warn of always, the rest only with ``-v``."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record."""
        say = self._console.say if record.levelno >= logging.WARNING else self._console.detail
        say(record.getMessage())


def _amount(count: int, unit: str) -> str:
    if unit != "bytes":
        return f"{count} {unit}"
    size = float(count)
    for name in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.0f} {name}"
        size /= 1024
    return f"{size:.1f} GiB"
