"""Wraps lines at a terminal's width, between words only: a terminal itself breaks inside them."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: A colour, which takes no room.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: Two blanks and more separate columns; the text after the last of them is continued below its start.
_GAP = re.compile(r"\s{2,}(?=\S)")
_INDENT = 4
#: Continued lines have room for at least this share of the width.
_ROOM = 0.4


def wrapped(text: str, width: int) -> str:
    """Return the text with its lines wrapped. A word that is longer than a line stays whole."""
    return "\n".join(part for line in text.split("\n") for part in _wrapped_line(line, width))


def wrapped_row(cells: Sequence[str], starts: Sequence[int], width: int) -> str:
    """Return a row of a table, padded to ``starts``: the last column wrapped below itself, where it fits."""
    line = "".join(
        f"{cell:{end - start}}" for cell, start, end in zip(cells, starts, starts[1:], strict=False)
    )
    line += cells[-1]
    return "\n".join(_wrapped_line(line.rstrip(), width, starts[-1]))


def _wrapped_line(line: str, width: int, column: int | None = None) -> list[str]:
    if _length(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip(" "))
    if column is None:
        gaps = [found.end() for found in _GAP.finditer(_COLOUR.sub("", line))]
        column = gaps[-1] if gaps and gaps[-1] > indent else indent + _INDENT
    if column > width * (1 - _ROOM):
        column = min(indent + _INDENT, width // 2)
    lines: list[str] = []
    rest = ""
    for word in re.split(r"(?<=\S)(?=\s)", line):  # each with the blanks before it
        if rest.strip() and _length(rest + word) > width:
            lines.append(rest)
            rest = " " * column + word.lstrip()
        else:
            rest += word
    return [*lines, rest]


def _length(text: str) -> int:
    return len(_COLOUR.sub("", text))
