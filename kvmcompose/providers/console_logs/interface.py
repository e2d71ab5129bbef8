"""What the serial consoles of guests on one host have printed, in files."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class ConsoleLogs(Protocol):
    """The files to which serial consoles are written. Paths are absolute, as on their host."""

    async def read_from(
        self, path: Path, after: int | None, most: int, *, wait: int = 0
    ) -> tuple[int, bytes]:
        """Return where a part of a file begins, and the part: at most so many bytes from offset ``after``.

        The end of the file for None; the file from its start when it is shorter than ``after``. Where nothing
        follows ``after`` yet, this waits until something does, at most ``wait`` seconds, less than 50. As
        ``read_tail`` otherwise.
        """

    async def wait_for_text(self, path: Path, text: str) -> None:
        """Return when a file, to which a console is written, has a text on a line. See ``read_from``.

        It is looked for from the start of the file on. The caller limits the time.
        """

    async def read_tail(self, path: Path, lines: int) -> str:
        """Return the last lines of a text file that may belong to root; empty when it does not exist."""
