"""Replacements for two parts of the OVSDB library, which finds them in its own modules.

Its poller uses select(), which takes no descriptor of 1024 or more. Its parser of JSON, where it
was installed without a compiler, takes a character at a time: the answer to a change of 10,000 ports
takes it seconds.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterable
from typing import Any

import msgspec
import ovs.json
import ovs.poller

#: All that matters for finding where a value ends.
_MARKS = re.compile(r'["\\{}\[\]]')


class Poll:
    """Waits with poll(2). The library registers a descriptor once for each kind of event."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, source: Any, events: int) -> None:
        """Add events to wait for."""
        descriptor = source if isinstance(source, int) else source.fileno()
        self._events[descriptor] = self._events.get(descriptor, 0) | events

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        """Wait so many milliseconds, a negative number: without limit."""
        waiting = select.poll()
        for descriptor, events in self._events.items():
            waiting.register(descriptor, events)
        return waiting.poll(timeout)


class Parser:
    """Takes the text of one JSON object or array in pieces, as ``ovs.json.Parser`` does."""

    def __init__(self, check_trailer: bool = False) -> None:
        """``check_trailer`` is for texts with nothing after the value."""
        self._check_trailer = check_trailer
        self._pieces: list[str] = []
        self._depth = 0
        self._in_string = False
        #: Marks before this position of the piece belong to an escape sequence.
        self._skipped = 0
        self._done = False

    def feed(self, text: str) -> int:
        """Take a piece; return how many of its characters belong to the value."""
        end = self._end(text)
        self._pieces.append(text[:end])
        return end

    def is_done(self) -> bool:
        """Return whether the value is complete."""
        return self._done

    def finish(self) -> Any:
        """Return the value; a text says what is wrong with it."""
        try:
            return msgspec.json.decode("".join(self._pieces))
        except msgspec.DecodeError as error:
            return str(error)

    def _end(self, text: str) -> int:
        """Return where the value ends in a piece, its length if it does not."""
        if self._check_trailer:
            self._done = True
            return len(text)
        for mark in _MARKS.finditer(text):
            if mark.start() < self._skipped:
                continue
            if self._in_string:
                self._string(mark[0], mark.end())
            elif mark[0] == '"':
                self._in_string = True
            elif self._closes(mark[0]):
                self._done = True
                return mark.end()
        self._skipped = max(0, self._skipped - len(text))
        return len(text)

    def _string(self, sign: str, after: int) -> None:
        """Note that a string ends, or that what comes after a backslash means nothing here."""
        if sign == '"':
            self._in_string = False
        elif sign == "\\":
            self._skipped = after + 1

    def _closes(self, sign: str) -> bool:
        """Note a bracket; return whether it is the last one."""
        self._depth += 1 if sign in "{[" else -1 if sign in "}]" else 0
        return self._depth <= 0 and sign in "}]"


def install() -> None:
    """Have the library use these. A parser in C, which it may have, is faster than this one."""
    ovs.poller.SelectPoll = Poll
    if ovs.json.PARSER != ovs.json.PARSER_C:
        ovs.json.Parser = Parser


def stored(row: Any, column: str) -> Any:
    """Return a column of a row of a replica, as the server has it. References are rows, if they are there.

    Reading it as an attribute applies what a transaction would change, and takes ten times as long.
    """
    return row._data[column].to_python(row._uuid_to_row)  # noqa: SLF001 (see above)


def columns(row: Any) -> Iterable[str]:
    """Return the columns that the server has sent: all others have their default values."""
    return dict.keys(row._data)  # noqa: SLF001 (as above)


def is_connected(idl: Any) -> bool:
    """Return whether a replica is connected at the moment; it connects again by itself."""
    return bool(idl._session.is_connected())  # noqa: SLF001 (there is no other way to ask)
