"""Predict what a build must do, from the rules alone: the result of a clean build, and what is in the folder.

It shares no code with kvmcompose. What it knows of the past it saw itself: the bytes that were there
after each build, and of what recipe they were.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from golden.bench import Bench

MADE = frozenset({"create", "rebuild"})
FAILING = frozenset({"conflict", "refuse", "blocked"})
KEPT = frozenset({"keep", "adopt", "keep customised", "left over"})

#: What can be at a path: a file's bytes, a link's target, or something else.
Content = bytes | str
OTHER = object()
_CLUSTER = 1 << 16


@dataclass(frozen=True)
class Grown:
    """A disk of that size, in bytes, with the data of guests in it."""

    size: int
    data: frozenset[bytes]

    @classmethod
    def to(cls, size: int, disk: bytes) -> Grown:
        """A disk of another size with the data of this one."""
        return cls(size, frozenset(_data(disk)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and size_of(other) == self.size and self.data <= set(_data(other))

    __hash__ = None  # type: ignore[assignment]


def _data(disk: bytes) -> Iterator[bytes]:
    """Yield what guests have written: clusters of one byte that is not zero."""
    clusters = (disk[start : start + _CLUSTER] for start in range(0, len(disk), _CLUSTER))
    return (each for each in clusters if each == each[:1] * _CLUSTER and each[0])


def content(path: Path) -> Content | object | None:
    """Return what is at a path, or None."""
    if path.is_symlink():
        return str(path.readlink())
    if path.is_file():
        return path.read_bytes()
    return OTHER if path.exists() else None


@dataclass(frozen=True)
class Made:
    """An artefact of a clean build. ``on`` is the artefact that must be made first."""

    content: Content
    recipe: str
    policy: str
    task: str
    on: str | None
    sizeless: str


@dataclass(frozen=True)
class Clean:
    """A clean build: its artefacts, and its links to images by task."""

    artefacts: dict[str, Made]
    links: dict[str, str]


def build_clean(bench: Bench, root: Path) -> Clean:
    """Build a copy of a project's inputs in another folder of the same name."""
    other = Bench(bench.root, root / bench.folder.name)
    shutil.copytree(
        bench.folder,
        other.folder,
        symlinks=True,
        ignore=shutil.ignore_patterns("artefacts", "state.json*", ".kvm-*"),
    )
    other.generate()
    found = {}
    inputs_of = {path: inputs for path, *_, inputs in rows(other.folder)}
    for path, task, policy, recipe, inputs in rows(other.folder):
        there = content(other.folder / path)
        assert isinstance(there, bytes | str), f"{path} was recorded but is not there"
        on = json.loads(inputs).get("overlay", {}).get("on", {}).get("path")
        found[path] = Made(there, recipe, policy, task, on, sizeless(path, inputs_of))
    links = {
        link.relative_to(other.folder).as_posix(): str(link.readlink())
        for link in (other.folder / "artefacts/images").glob("*")
    }
    shutil.rmtree(other.folder)
    return Clean(found, links)


def rows(folder: Path) -> list[tuple[str, str, str, str, bytes]]:
    """Return the entries of a ledger: path, task, policy, recipe, inputs."""
    ledger = sqlite3.connect(folder / ".kvm-compose/ledger.sqlite")
    try:
        return ledger.execute("SELECT path, task, policy, recipe, inputs FROM artefacts").fetchall()
    finally:
        ledger.close()


def sizeless(path: str, inputs_of: dict[str, bytes]) -> str:
    """Return what a disk is made of but for its size; nothing for what has no size in its recipe."""
    inputs = json.loads(inputs_of[path])
    overlay = inputs.get("overlay", {})
    if "on" in overlay:
        golden = sizeless(overlay["on"]["path"], inputs_of)
        return golden and f"{overlay['on']['path']} {golden}"
    if (
        inputs.get("blank", {}).pop("gigabytes", None) is None
        and overlay.pop("expand_gigabytes", None) is None
    ):
        return ""
    return json.dumps(inputs)


def size_of(disk: bytes) -> int:
    """Return the virtual size of an image (QEMU's docs/interop/qcow2.rst: 8 bytes at offset 24)."""
    return int.from_bytes(disk[24:32], "big")


def backing_of(disk: bytes) -> str | None:
    """Return the backing file of a qcow2 image, or None. Raises ValueError for another format."""
    if disk[:4] != b"QFI\xfb" or len(disk) < 104:
        raise ValueError("no qcow2")
    offset, size = struct.unpack_from(">QI", disk, 8)
    return disk[offset : offset + size].decode() or None


@dataclass(frozen=True)
class Built:
    """What is known of an artefact that was built. ``content`` is None for a disk adopted as used."""

    recipe: str
    content: Content | None
    size: int
    policy: str
    task: str
    offered: str | None = None
    sizeless: str = ""


def _built(made: Made, known: Content | None, size: int) -> Built:
    return Built(made.recipe, known, size, made.policy, made.task, sizeless=made.sizeless)


@dataclass
class Oracle:
    """Tracks one project through its builds."""

    folder: Path
    built: dict[str, Built] = field(default_factory=dict)
    overwrite: bool = False
    provision: bool = False
    golden: set[str | None] = field(default_factory=set)
    _resized: set[str] = field(default_factory=set)

    def allow(self, words: tuple[str, ...]) -> None:
        self.overwrite = "--overwrite" in words
        self.provision = "--provision" in words

    def predict(self, clean: Clean) -> dict[str, str]:
        """Return what a build must do with each path, including the links to images."""
        self.golden = {made.on for made in clean.artefacts.values()}
        self._resized = {
            path
            for path, made in clean.artefacts.items()
            if path in self.built and made.sizeless and self.built[path].sizeless == made.sizeless
            if self.built[path].recipe
        }
        found = {path: self._wanted(path, made) for path, made in clean.artefacts.items()}
        found |= {path: self._left(path) for path in self.built if path not in found}
        self._keep_what_data_lies_on(found)
        for link, goal in clean.links.items():
            found[link] = "keep" if content(self.folder / link) == goal else "create"
        return found

    def predict_again(self, clean: Clean) -> dict[str, str]:
        """Return what a build directly after another must do, without options that permit losses."""
        self.allow(())
        return self.predict(clean)

    def _keep_what_data_lies_on(self, found: dict[str, str]) -> None:
        """Keep a disk while it is the backing file of another that has a guest's data."""
        for path, action in list(found.items()):
            record = self.built.get(path)
            if record is None or record.policy != "mutable" or action in MADE or action == "remove":
                continue
            there = content(self.folder / path)
            if not isinstance(there, bytes) or there == record.content:
                continue
            try:
                below = f"artefacts/{backing_of(there)}"
            except ValueError:
                continue
            if below in self.built and self._as_built(below):
                if found.get(below) == "rebuild" and below not in self._resized:
                    found[below] = "refuse"
                elif found.get(below) == "remove":
                    found[below] = "left over"

    def _as_built(self, path: str) -> bool:
        return content(self.folder / path) == self.built[path].content

    def _wanted(self, path: str, made: Made) -> str:
        there = content(self.folder / path)
        if there is None:
            return "create"
        if not isinstance(there, str if made.policy == "link" else bytes):
            return "blocked"
        assert isinstance(there, bytes | str)
        record = self.built.get(path)
        if record is None or record.policy != made.policy:
            return self._unknown(path, made, there)
        if there == record.content:
            return "keep" if record.recipe == made.recipe else "rebuild"
        if isinstance(there, str) or made.policy == "reproducible":
            return "rebuild"
        if made.policy == "mutable":
            return self._disk(path, made, record, there)
        return self._text(path, made, record, there)

    def _disk(self, path: str, made: Made, record: Built, there: bytes) -> str:
        same = record.recipe == made.recipe
        try:
            backing = backing_of(there)
        except ValueError:
            return "rebuild"
        assert isinstance(made.content, bytes)
        wanted = backing_of(made.content)
        if len(there) < record.size or (same and wanted is not None and backing != wanted):
            return "rebuild"
        if self.provision:
            return "rebuild"
        missing = size_of(made.content) - size_of(there)
        if path in self._resized:
            if not same:
                return "refuse" if missing < 0 else "grow"
            if missing > 0 and path not in self.golden:
                return "grow"
        return "keep" if same else "refuse"

    def _text(self, path: str, made: Made, record: Built, there: bytes) -> str:
        if not there or self.overwrite:
            return "rebuild"
        if record.recipe == made.recipe:
            return "keep customised"
        if there == made.content:
            return "adopt"
        if record.offered == made.recipe and not (self.folder / f"{path}.new").exists():
            return "keep customised"
        return "conflict"

    def _unknown(self, path: str, made: Made, there: Content) -> str:
        if made.policy == "link":
            return "rebuild"
        if made.policy != "mutable":
            return "adopt" if there == made.content else "rebuild"
        assert isinstance(there, bytes)
        assert isinstance(made.content, bytes)
        try:
            if backing_of(there) == backing_of(made.content) and size_of(there) < size_of(made.content):
                return "rebuild" if self.provision else "grow"
            right = (backing_of(there), size_of(there)) == (backing_of(made.content), size_of(made.content))
        except ValueError:
            right = False
        if right:
            return "adopt"
        return "rebuild" if self.provision or not there else "refuse"

    def _left(self, path: str) -> str:
        record = self.built[path]
        there = content(self.folder / path)
        if there is None or there == record.content:
            return "remove"
        if not isinstance(there, str if record.policy == "link" else bytes):
            return "left over"
        return "remove" if record.policy == "mutable" and self.provision else "left over"

    def acted(self, predicted: dict[str, str], clean: Clean) -> dict[str, str]:
        """Return the part of a prediction that a build with failures does: not what depends on a failure."""
        done = {}
        for path, action in predicted.items():
            made = clean.artefacts.get(path)
            if made is not None and made.on is not None and predicted[made.on] in FAILING:
                continue
            if action not in FAILING and action not in ("keep", "adopt"):
                done[path] = action
        return done

    def remember(  # noqa: C901 (one branch for each action)
        self, predicted: dict[str, str], done: dict[str, str], clean: Clean
    ) -> None:
        """Record a build."""
        for path, action in predicted.items():
            if path in clean.links:
                continue
            made = clean.artefacts.get(path)
            if made is None:
                if action == "remove":
                    del self.built[path]
                continue
            there = content(self.folder / path)
            if action in MADE and path in done:
                self.built[path] = _built(made, made.content, len(made.content))
            elif action == "adopt" or (action == "grow" and path not in self.built):
                assert isinstance(there, bytes)
                self.built[path] = _built(made, None if made.policy == "mutable" else there, len(there))
            elif action == "grow":
                self.built[path] = replace(self.built[path], recipe=made.recipe)
            elif action == "keep customised":
                record = self.built[path]
                if record.recipe != made.recipe:
                    self.built[path] = replace(record, recipe=made.recipe, offered=None)
            elif action == "conflict":
                self.built[path] = replace(self.built[path], offered=made.recipe)

    def lose(self) -> None:
        """Forget everything: the ledger is lost, and only the files in the folder remain."""
        self.built.clear()

    def forget(self, task: str | None) -> None:
        """Record ``kvm-compose forget``: the recipe becomes unknown."""
        for path, record in self.built.items():
            if task is None or record.task == task:
                self.built[path] = replace(record, recipe="")


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of all files that a build could write, to detect those that it wrote."""
    found = {}
    for top in ("state.json", "artefacts"):
        for path in [folder / top, *(folder / top).rglob("*")]:
            if path.is_symlink() or path.is_file():
                status = os.lstat(path)
                found[path.relative_to(folder).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return found
