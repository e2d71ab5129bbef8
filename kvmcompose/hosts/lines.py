"""What a command prints, line by line, however long its lines are; and what it reads."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable

#: Called with each line that a command prints.
OnLine = Callable[[str], None]
#: Bytes in pieces: the standard input of a command, an archive. One is asked for when the last was sent.
Pieces = AsyncIterable[bytes]
#: A longer line is split, in bytes.
LONGEST_LINE = 1 << 16


class Lines:
    """Splits bytes into lines of text, and reports them; a line that is too long is split."""

    def __init__(self, on_line: OnLine) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._report(line)
        while len(rest) >= LONGEST_LINE:
            self._report(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        self._rest = rest

    def end(self) -> None:
        """Report the last line, even if it is not terminated."""
        if self._rest:
            self._report(self._rest)
        self._rest = b""

    def _report(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, LONGEST_LINE):
            self._on_line(line[start : start + LONGEST_LINE].decode(errors="replace").removesuffix("\r"))
