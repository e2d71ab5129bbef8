"""What the scripts of a depot print, read: words with a zero after each, the kind first; notes are JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from kvmcompose.hosts.blob_store import Inventory
from kvmcompose.hosts.command import Completed

#: What find(1) counts blocks of, in bytes.
_BLOCK = 512


class StoreListing(msgspec.Struct):
    """What LOOK has found."""

    missing: list[str]
    room: int
    stored: set[str]
    home: str | None
    notes: dict[str, str]
    files: list[str]
    links: dict[str, str]
    parts: dict[str, int]

    @staticmethod
    def parse(done: Completed, store: Path) -> StoreListing:
        """From what it prints."""
        found = StoreListing([], 0, set(), None, {}, [], {}, {})
        words = iter(split_words(done))
        for kind in words:
            found.add(kind, next(words), words, store)
        return found

    def add(self, kind: str, word: str, rest: Iterator[str], store: Path) -> None:
        """One thing; a link has a second word."""
        match kind:
            case "missing":
                self.missing.append(word)
            case "room":
                self.room = int(word)
            case "stored":
                self.stored.add(word)
            case "part":
                digest, blocks = word.split()
                self.parts[digest.removesuffix(".part")] = int(blocks) * _BLOCK
            case "home":
                self.home = word
            case "notes":
                self.notes = decode_notes(word.encode())
            case "file":
                self.files.append(word)
            case "link":
                goal = Path(next(rest))
                if goal.parent == store:
                    self.links[word] = goal.name

    def holdings(self) -> Inventory:
        """Notes count for what is there; a link tells by itself what it leads to, if it leads anywhere."""
        delivered = {path: self.links.get(path) or self.notes.get(path, "") for path in self.files}
        return Inventory(stored=frozenset(self.stored), parts=self.parts, delivered=delivered, room=self.room)


def encode_notes(notes: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(notes, order="deterministic")


def decode_notes(text: bytes) -> dict[str, str]:
    """Half a note is none."""
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError:
        return {}


def split_words(done: Completed) -> list[str]:
    """What find(1) printed, a zero after each."""
    return done.text.split("\0")[:-1]
