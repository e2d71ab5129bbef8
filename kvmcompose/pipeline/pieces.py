"""Large YAML piece by piece: only machines whose text is new are parsed and checked again.

The text of ``machines`` is cut at its list items. What each piece came to, when it had no problem, is
remembered by the digest of its text. Whenever there is doubt (anchors, tags, several documents, a
problem anywhere) the whole file is read instead, so that pieces never decide what is right.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Protocol

import msgspec

from kvmcompose.core.errors import InputError
from kvmcompose.pipeline.read import read_yaml
from kvmcompose.pipeline.schemas import Schemas
from kvmcompose.pipeline.shape import shape_testbed

#: Smaller files are read whole in less time than it takes to look things up.
_WORTH_IT = 64 * 1024

_KEY = re.compile(r"^machines:[ ]*(?:#.*)?\n", re.MULTILINE)
#: The end of the list: a line that starts in the first column and is no item, comment or blank.
_END = re.compile(r"\n(?=[^\s#-])")
#: Anchors, aliases, tags and merge keys reach beyond a piece; so do marks of documents and directives.
_REACHING = re.compile(r"(?:^|[\s\[{,:?-])[&*!]|<<|^(?:---|\.\.\.|%)", re.MULTILINE)
_MARKS = ("&", "*", "!", "<<", "\n---", "\n...", "\n%")
#: What YAML takes for an end of a line, or for the space after a dash, beside what is looked for here.
_BREAKS = "\r\t\x85\u2028\u2029"
_ITEM = re.compile(r"^( *)- ", re.MULTILINE)


class Memory(Protocol):
    """What pieces came to: plain data of the right shape, by digest."""

    def known(self) -> dict[str, Any]:
        """What was remembered for this project, these schemas and this code."""

    def remember(self, values: dict[str, Any]) -> None:
        """Keep these, and only these."""


class Pieces(msgspec.Struct, frozen=True):
    """A YAML text, cut: what stands around the machines, and the text of each after its ``dash``."""

    before: str
    dash: str
    items: list[str]
    after: str

    def text(self, number: int) -> str:
        """A machine as it stands in the list."""
        return f"{self.dash}{self.items[number]}\n"


def cut(text: str) -> Pieces | None:
    """The pieces of a text, or None when it may not be cut.

    Each machine starts a piece; only a text that is strange has pieces that are no machines.
    """
    key = _KEY.search(text)
    if key is None or any(character in text for character in _BREAKS):
        return None
    # the marks are rare, and looking for them is much quicker than for the places where they count
    if any(mark in text for mark in _MARKS) and _REACHING.search(text):
        return None
    end = _END.search(text, key.end() - 1)
    stop = end.end() if end is not None else len(text)
    body = text[key.end() : stop]
    first = _ITEM.search(body)
    if first is None or body[: first.start()].strip() or not body.endswith("\n"):
        return None
    dash = f"{first.group(1)}- "
    if f"\n{first.group(1)}-\n" in body:
        return None
    # only items of the list itself stand at its indentation
    items = f"\n{body[:-1]}".split(f"\n{dash}")
    return Pieces(text[: key.end()], dash, items[1:], text[stop:])


def shape_in_pieces(data: bytes, name: str, schemas: Schemas, memory: Memory) -> dict[str, Any] | None:
    """The testbed as plain data, or None when the whole file has to be read to know (or to complain)."""
    try:
        pieces = cut(data.decode()) if len(data) >= _WORTH_IT else None
    except UnicodeDecodeError:
        return None
    if pieces is None:
        return None
    known = memory.known()
    digests = [hashlib.blake2b(item.encode(), digest_size=16).hexdigest() for item in pieces.items]
    new = [number for number, digest in enumerate(digests) if digest not in known]
    if len(new) * 4 > len(digests):
        value = _whole(data, name, schemas)
    else:
        # a list must not be empty, so that at least one item goes along
        value = _part(pieces, new or [0], name, schemas)
    if value is None:
        return None
    machines = value["machines"]
    found = {digests[number]: machine for number, machine in zip(new or [0], machines, strict=False)}
    if len(machines) == len(digests):
        found = dict(zip(digests, machines, strict=True))
    elif len(machines) != len(new or [0]):
        return None  # the cuts were not where the items are
    merged = {digest: found.get(digest) or known[digest] for digest in digests}
    if found.keys() - known.keys() or len(merged) != len(known):
        memory.remember(merged)
    return {**value, "machines": [merged[digest] for digest in digests]}


def _part(pieces: Pieces, numbers: list[int], name: str, schemas: Schemas) -> dict[str, Any] | None:
    text = pieces.before + "".join(map(pieces.text, numbers)) + pieces.after
    return _whole(text.encode(), name, schemas)


def _whole(data: bytes, name: str, schemas: Schemas) -> dict[str, Any] | None:
    try:
        value, problems = shape_testbed(read_yaml(data, name), schemas)
    except InputError:
        return None
    return None if problems else value
