"""The output of the command line: results to stdout, messages to stderr.

Text may come from a project, a server or a guest. So control characters are printed as escapes: this is the
only place where that is done, and only ``paint`` adds control sequences.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from kvmcompose.core.command_output import Message
from kvmcompose.core.errors import Problem, Severity
from kvmcompose.core.plain import plain, plain_json
from kvmcompose.effects.text_encoding import escaped
from kvmcompose.monitor.wrapping import wrapped, wrapped_row

Progress = Callable[[int, int | None], None]

_COLOURS = {
    "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36",
    "bold": "1", "dim": "2",
}  # fmt: skip
_REDRAW_SECONDS = 0.1
#: What ``paint`` returns. It resets the colour at its end, so text that imitates it colours only itself.
_PAINTED = re.compile(rf"(\x1b\[(?:{'|'.join(_COLOURS.values())})m)([^\x1b]*)(\x1b\[0m)")


def _clean(text: str) -> str:
    """Return the text with all control characters escaped but line breaks and what ``paint`` returns."""
    if text.isascii() and text.isprintable():
        return text
    parts = _PAINTED.split(text)
    return "".join(
        part if number % 4 in (1, 3) else plain(part, lines=True) for number, part in enumerate(parts)
    )


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _fitted(text: str, stream: Any) -> str:
    """Return the text as wide as the terminal is, if the stream is one."""
    return wrapped(text, _columns()) if stream.isatty() else text


def _encoded(value: Any) -> bytes:
    """Return a value as JSON. Names that are not UTF-8 are escaped, as JSON cannot hold them."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_escaped(msgspec.to_builtins(value)))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list | tuple) else value


class Console:
    """Where a command prints. ``verbosity``: -1 quiet, 0 normal, 1 and more verbose.

    With ``json_messages`` each message on stderr is a line of JSON (``core.command_output.Message``).
    """

    def __init__(
        self, *, verbosity: int = 0, colour: bool | None = None, json_messages: bool = False
    ) -> None:
        self.verbosity = verbosity
        self.json_messages = json_messages
        self.on_terminal = sys.stderr.isatty() and not json_messages
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._colour = wanted if colour is None else colour and wanted
        self._bar = ""
        self._status = ""

    def data(self, text: str) -> None:
        """Print a result to stdout, on a terminal wrapped between words."""
        self.verbatim(_fitted(_clean(text), sys.stdout))

    def verbatim(self, text: str) -> None:
        """Print a result to stdout whose lines stay as they are: code, or what a program printed."""
        self._erase()
        sys.stdout.write(f"{_clean(text)}\n")
        self._put(self._status)

    def raw(self, data: bytes) -> None:
        """Write bytes to stdout, unchanged unless it is a terminal."""
        sys.stdout.flush()
        if sys.stdout.isatty():
            data = plain(data.decode(errors="replace"), lines=True).encode()
        sys.stdout.buffer.write(data)

    def json(self, value: Any) -> None:
        """Print a value as indented JSON to stdout."""
        self._json(msgspec.json.format(_encoded(value), indent=2) + b"\n")

    def json_line(self, value: Any) -> None:
        """Print a value as one line of JSON to stdout."""
        self._json(_encoded(value) + b"\n")
        sys.stdout.flush()

    def _json(self, data: bytes) -> None:
        self.raw(plain_json(data) if sys.stdout.isatty() else data)

    def say(self, text: str) -> None:
        """Print a message to stderr, unless quiet."""
        if self.verbosity >= 0:
            self.talk(text)

    def detail(self, text: str) -> None:
        """Print a message to stderr if verbose."""
        if self.verbosity > 0:
            self.talk(text)

    def warn(self, text: str) -> None:
        """Print a warning to stderr, even if quiet."""
        if self.json_messages:
            self.message(Message(level=Severity.WARNING.value, message=text))
            return
        self.talk(f"{self.paint('warning:', 'yellow', sys.stderr)} {text}")

    def error(self, text: str) -> None:
        """Print an error to stderr, even if quiet."""
        if self.json_messages:
            self.message(Message(level=Severity.ERROR.value, message=text))
            return
        self.talk(f"{self.paint('error:', 'red', sys.stderr)} {text}")

    def problem(self, problem: Problem) -> None:
        """Print a problem of the input, with its location."""
        if self.json_messages:
            self.message(Message(level=problem.severity.value, message=problem.message, problem=problem))
            return
        word = problem.severity.value
        colour = "red" if problem.severity is Severity.ERROR else "yellow"
        painted = self.paint(f"{word}:", colour, sys.stderr)
        self.talk(str(problem).replace(f": {word}: ", f": {painted} ", 1))

    def talk(self, text: str) -> None:
        """Print a message to stderr, even if quiet; on a terminal wrapped between words."""
        if self.json_messages:
            self.message(Message(level="info", message=text))
            return
        self._erase()
        sys.stderr.write(f"{_fitted(_clean(text), sys.stderr)}\n")
        self._put(self._status)

    def message(self, message: Message) -> None:
        """Write a message to stderr as a line of JSON."""
        sys.stderr.write(f"{_encoded(message).decode()}\n")
        sys.stderr.flush()

    def paint(self, text: str, colour: str, stream: Any = None) -> str:
        """Return the text in a colour if the stream (default: stdout) is a terminal and colours are on."""
        if not (self._colour and (stream or sys.stdout).isatty()):
            return text
        return f"\x1b[{_COLOURS[colour]}m{plain(text, lines=True)}\x1b[0m"

    def table(self, rows: Sequence[Sequence[str]], header: Sequence[str], *, talk: bool = False) -> None:
        """Print a table with aligned columns to stdout; with ``talk`` to stderr, unless quiet."""
        write, stream = (self.say, sys.stderr) if talk else (self.data, sys.stdout)
        rows = [[plain(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        starts = [0, *itertools.accumulate(width + 2 for width in widths[:-1])]
        columns = _columns() if stream.isatty() else sys.maxsize
        for number, row in enumerate((header, *rows)):
            line = wrapped_row(row, starts, columns)
            write(self.paint(line, "bold", stream) if number == 0 else line)

    @contextlib.contextmanager
    def progress(self, label: str, *, unit: str = "bytes") -> Iterator[Progress]:
        """Show a progress bar on a terminal, else print a line at the end. Call it with (done, total)."""
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
            if room >= 10:  # noqa: PLR2004 (a shorter bar is useless)
                filled = int(room * share)
                text += f"[{'#' * filled}{'.' * (room - filled)}]"
        self._erase()
        self._put(text[:width])

    def status(self, text: str) -> None:
        """Show a text on the terminal's last line, below all output; '' removes it."""
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
    """Prints log records of the packages below: warnings unless quiet, the rest only with ``-v``."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
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
