"""Parse JSON (RFC 8259) into nodes with their line and column.

``json.loads`` reports neither the positions of values nor duplicate keys.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # in the source, not in the stubs

from kvmcompose.core.document import Mapping, Mark, Node, Place, Scalar, Sequence, location
from kvmcompose.core.errors import InputError, Location, Problem
from kvmcompose.pipeline.text import MAX_DEPTH, UNPRINTABLE, refuse, unprintable

_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_COMMENT = "JSON has no comments"


def parse_json(text: str, name: str) -> Node | None:
    """Return the value in ``text``, or None when there is only white space.

    Raises InputError; see ``kvmcompose.pipeline.read.read_json`` for the codes.
    """
    reader = _Reader(text, name)
    start = reader.skip(0)
    if start == len(text):
        return None
    root, end = reader.value(start, 0)
    if end != len(text):
        raise reader.syntax_error("something follows the end of the value", end)
    if reader.problems:
        raise InputError(reader.problems)
    return root


class _Reader:
    """Recursive descent; every method takes an offset and returns a node and the offset after it."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.problems: list[Problem] = []
        self.line_starts = [0, *(found.end() for found in re.finditer(r"\r\n|\r|\n", text))]

    def value(self, at: int, depth: int) -> tuple[Node, int]:
        """Return the value at offset ``at``, which is not white space, and the offset of the next token."""
        first = self.text[at : at + 1]
        if first in ("{", "[") and depth == MAX_DEPTH:
            raise refuse("too-deep", f"nested deeper than {MAX_DEPTH} levels", self.location(at))
        node: Node
        if first == '"':
            text, end = self.string(at)
            node = Scalar(text, self.place(at), quoted=True)
        elif first == "{":
            node, end = self.object(at, depth + 1)
        elif first == "[":
            node, end = self.array(at, depth + 1)
        elif word := _WORD.match(self.text, at):
            node, end = Scalar(word.group(), self.place(at)), word.end()
        else:
            raise self.syntax_error("a value is missing", at)
        return node, self.skip(end)

    def object(self, at: int, depth: int) -> tuple[Mapping, int]:
        mapping = Mapping(self.place(at))
        at = self.skip(at + 1)
        more = self.text[at : at + 1] != "}"
        while more:
            at = self.member(mapping, at, depth)
            at, more = self.separator(at, "}")
        return mapping, at + 1

    def member(self, mapping: Mapping, at: int, depth: int) -> int:
        if self.text[at : at + 1] != '"':
            raise self.syntax_error("a key in double quotes is missing", at)
        key, end = self.string(at)
        end = self.skip(end)
        if self.text[end : end + 1] != ":":
            raise self.syntax_error("':' is missing after the key", end)
        value, end = self.value(self.skip(end + 1), depth)
        if key in mapping.keys:
            first = location(self.name, mapping.keys[key])
            message = f"the key '{key}' is given twice, first at {first}"
            self.problems.append(Problem(code="duplicate-key", message=message, location=self.location(at)))
        else:
            mapping.keys[key] = self.place(at)
            mapping.entries[key] = value
        return end

    def array(self, at: int, depth: int) -> tuple[Sequence, int]:
        sequence = Sequence(self.place(at))
        at = self.skip(at + 1)
        more = self.text[at : at + 1] != "]"
        while more:
            item, at = self.value(at, depth)
            sequence.items.append(item)
            at, more = self.separator(at, "]")
        return sequence, at + 1

    def separator(self, at: int, closing: str) -> tuple[int, bool]:
        """Return the offset after a comma and True, or the offset of the ``closing`` bracket and False."""
        found = self.text[at : at + 1]
        if found == ",":
            return self.skip(at + 1), True
        if found == closing:
            return at, False
        raise self.syntax_error(f"',' or '{closing}' is missing", at)

    def string(self, at: int) -> tuple[str, int]:
        try:
            text, end = scanstring(self.text, at + 1, True)
        except JSONDecodeError as error:
            raise self.syntax_error(error.msg, error.pos) from error
        if found := UNPRINTABLE.search(text):
            self.problems += unprintable(found.group(), self.location(at)).problems
        return text, end

    def skip(self, at: int) -> int:
        """Return the offset of the next token, after any white space."""
        found = _SPACE.match(self.text, at)
        return found.end() if found else at

    def place(self, at: int) -> Place:
        line = bisect_right(self.line_starts, at) - 1
        return Mark(line, at - self.line_starts[line])

    def location(self, at: int) -> Location:
        return location(self.name, self.place(at))

    def syntax_error(self, what: str, at: int) -> InputError:
        found = f"'{self.text[at]}'" if at < len(self.text) else "the end of the file"
        hint = _COMMENT if self.text[at : at + 1] in ("#", "/") else None
        if self.text[at : at + 1] in ("}", "]") and self.text[:at].rstrip().endswith(","):
            hint = "remove the comma before it: JSON allows no trailing comma"
        problem = Problem(
            code="json-syntax",
            message=f"not valid JSON: {what}",
            location=self.location(at),
            found=found,
            hint=hint,
        )
        return InputError([*self.problems, problem])
