"""Finds a text in what a guest prints, piece by piece."""

from __future__ import annotations

import re

from kvmcompose.core.plain import without_controls

#: So much of a line that has not ended is kept, in bytes: a guest may never end one.
_LONGEST_LINE = 1 << 13
_LINE_ENDS = re.compile(rb"[\n\r]")


class TextSearch:
    """Looks for ``text`` on one line of a console, colours and other control sequences left out."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line = b""

    def feed(self, data: bytes) -> bool:
        """Return whether the text is in what was printed, with ``data`` as the next of it."""
        *lines, rest = _LINE_ENDS.split(self._line + data)
        self._line = rest[-_LONGEST_LINE:]
        return any(self._text in without_controls(line.decode(errors="replace")) for line in (*lines, rest))
