"""The ledger: what was built, from what, with which result. It alone determines what is up to date.

An SQLite file in the project's ``.kvm-compose`` folder. Before a file takes its place its digest is recorded
as intended, and after that as done. So after a build was killed in between, the next one neither takes its
own file for one that the user edited, nor a partial one for a finished one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kvmcompose.build.ledger_database import LedgerDatabase
from kvmcompose.build.stamp import drop_stamp
from kvmcompose.core.artefact import Policy
from kvmcompose.effects.private import foreign, refuse_foreign
from kvmcompose.effects.stat_cache import Remembered, Signature

#: All that a decision needs. The inputs are left out: they are most of the ledger.
_RECORDS = (
    "SELECT path, task, policy, recipe, content, size, mtime_ns, ctime_ns, inode, offered FROM artefacts"
)


class LedgerEntry(msgspec.Struct, frozen=True, array_like=True):
    """An artefact as it was built: a row of the table ``artefacts``, with the columns in that order.

    ``recipe`` is the digest of ``inputs`` (a JSON document), ``content`` that of the file, which is unchanged
    as long as its ``signature`` is the same. ``offered`` describes the last ``.new`` file that was offered
    beside an edited one; see ``build.offers``.
    """

    path: str
    task: str
    policy: Policy
    recipe: str
    content: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    offered: str | None = None
    inputs: bytes = b""

    @property
    def signature(self) -> Signature:
        """That of the file when it was built."""
        return Signature(self.size, self.mtime_ns, self.ctime_ns, self.inode)


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """An artefact about to be put in its place: a row of the table ``intended``."""

    path: str
    task: str
    policy: Policy
    recipe: str
    content: str
    inputs: bytes


def as_built(intent: Intent, signature: Signature) -> LedgerEntry:
    """Return the entry of what is in place, where it has that signature."""
    return LedgerEntry(
        intent.path,
        intent.task,
        intent.policy,
        intent.recipe,
        intent.content,
        signature.size,
        signature.mtime_ns,
        signature.ctime_ns,
        signature.inode,
        inputs=intent.inputs,
    )


_Row = TypeVar("_Row", LedgerEntry, Intent)


def _from_rows(rows: list[Any], kind: type[list[_Row]]) -> list[_Row]:
    """Return what rows stand for. A damaged row counts as missing, as does one that may be forged."""
    try:
        # in one call: there may be many thousand
        found = msgspec.convert(rows, kind, builtin_types=(bytes,))
    except msgspec.ValidationError:
        return [each for row in rows for each in _from_rows([row], kind)] if len(rows) > 1 else []
    return [each for each in found if _is_ours(each.path) and each.task.isprintable()]


def _to_rows(found: Iterable[LedgerEntry | Intent]) -> list[Any]:
    return msgspec.to_builtins(list(found), builtin_types=(bytes,))  # type: ignore[no-any-return]


def _is_ours(path: str) -> bool:
    """Return whether a path can be that of an artefact: a ledger is an ordinary file, and may be forged."""
    steps = path.split("/")
    below = steps[0] == "artefacts" and len(steps) > 1 and {"", ".", ".."}.isdisjoint(steps)
    return (below or path == "state.json") and path.isprintable()


class Ledger(LedgerDatabase):
    """The ledger of one project. Safe to share between threads."""

    def records(self, paths: Sequence[str] | None = None) -> dict[str, LedgerEntry]:
        """Return what was built, by path, without the inputs: everything, or the known ones of ``paths``."""
        if paths is None:
            rows = self.read(_RECORDS)
        else:
            rows = [row for path in paths for row in self.read(f"{_RECORDS} WHERE path = ?", path)]
        return {each.path: each for each in _from_rows(rows, list[LedgerEntry])}

    def inputs(self, path: str) -> bytes | None:
        """Return the inputs of an artefact: the JSON document that the digest of its recipe was taken of.

        None if they are unknown, as after ``invalidate``.
        """
        for inputs, recipe in self.read("SELECT inputs, recipe FROM artefacts WHERE path = ?", path):
            if isinstance(inputs, bytes) and hashlib.sha256(inputs).hexdigest() == recipe:
                return inputs
        return None

    def intend(self, intents: Iterable[Intent]) -> None:
        """Record what is about to be put in place."""
        self.write(("INSERT OR REPLACE INTO intended VALUES (?, ?, ?, ?, ?, ?)", _to_rows(intents)))

    def intents(self) -> list[Intent]:
        """Return what was about to be put in place when a build was killed."""
        rows = self.read("SELECT path, task, policy, recipe, content, inputs FROM intended")
        return _from_rows(rows, list[Intent])

    def record(self, records: Iterable[LedgerEntry]) -> None:
        """Record what is in place, and remove the intents for these paths."""
        rows = _to_rows(records)
        self.write(
            ("INSERT OR REPLACE INTO artefacts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows),
            ("DELETE FROM intended WHERE path = ?", [row[:1] for row in rows]),
        )

    def refresh(self, signatures: Iterable[tuple[str, Signature]]) -> None:
        """Record new signatures of files whose content is unchanged."""
        rows = [(*msgspec.structs.astuple(signature), path) for path, signature in signatures]
        if rows:
            update = "UPDATE artefacts SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE path = ?"
            self.write((update, rows))

    def rename(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Record other tasks of artefacts, by path: the guest that they belong to has another name."""
        rows = [(task, path) for path, task in tasks]
        if rows:
            self.write(("UPDATE artefacts SET task = ? WHERE path = ?", rows))

    def drop(self, paths: Iterable[str]) -> None:
        """Forget artefacts, built or intended."""
        rows = [(path,) for path in paths]
        self.write(
            ("DELETE FROM artefacts WHERE path = ?", rows), ("DELETE FROM intended WHERE path = ?", rows)
        )

    def drop_intents(self, paths: Iterable[str]) -> None:
        """Remove intents: these files were not put in place after all."""
        self.write(("DELETE FROM intended WHERE path = ?", [(path,) for path in paths]))

    def invalidate(self, task: str | None) -> None:
        """Make a task (None: all) run again: what its artefact was made of counts as unknown."""
        if self.path is not None:
            drop_stamp(str(self.path.parent))
        if task is None:
            self.write(("UPDATE artefacts SET recipe = ''", [()]))
        else:
            self.write(("UPDATE artefacts SET recipe = '' WHERE task = ?", [(task,)]))

    def file_digests(self) -> list[tuple[str, Remembered]]:
        """Return the digests of input files that earlier builds remembered."""
        rows = self.read("SELECT path, size, mtime_ns, ctime_ns, inode, digest FROM files")
        return [
            (path, Remembered(Signature(*signature), digest))
            for path, *signature, digest in rows
            if isinstance(path, str) and isinstance(digest, str)
        ]

    def remember_files(self, files: Iterable[tuple[str, Remembered]]) -> None:
        """Keep digests of input files for the next build."""
        rows = [(path, *msgspec.structs.astuple(each.signature), each.digest) for path, each in files]
        if rows:
            self.write(("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows))

    def doit_rows(self) -> dict[str, str]:
        """Return doit's own records of tasks."""
        rows = self.read("SELECT task, data FROM doit")
        return {task: data for task, data in rows if isinstance(task, str) and isinstance(data, str)}

    def save_doit_rows(self, changed: Iterable[tuple[str, str]], removed: Iterable[str]) -> None:
        """Keep doit's own records of tasks."""
        self.write(
            ("DELETE FROM doit WHERE task = ?", [(task,) for task in removed]),
            ("INSERT OR REPLACE INTO doit VALUES (?, ?)", changed),
        )


def copy_of_ledger(path: Path) -> Ledger:
    """Return a copy of the ledger in memory, for commands that must not write in the project.

    If the ledger cannot be read the copy is empty, and its ``notice`` says why.
    """
    found = Ledger(None)
    trouble = foreign(path.parent)
    if trouble is not None:
        place, what = trouble
        found.notice = f"{str(place)!r} {what}: what was built is not known"
        return found
    try:
        found.load(path)
    except FileNotFoundError:
        pass
    except (OSError, sqlite3.Error) as error:
        found = Ledger(None)
        why = (error.strerror if isinstance(error, OSError) else None) or error
        found.notice = f"the ledger {path.name} cannot be read ({why}): everything is checked again"
    return found


_open_ledgers: dict[Path, Ledger] = {}


def share_ledger(path: Path, ledger: Ledger) -> None:
    """Let ``open_ledger`` return this one, which may be in memory only, for ``path``."""
    _open_ledgers[_resolved(path)] = ledger


def open_ledger(path: Path) -> Ledger:
    """Return the ledger at ``path``, one object per file and process (doit's store and ours are the same)."""
    refuse_foreign(path.parent)  # before links are resolved
    resolved = _resolved(path)
    if resolved not in _open_ledgers:
        _open_ledgers[resolved] = Ledger(resolved)
    return _open_ledgers[resolved]


def _resolved(path: Path) -> Path:
    """The path without links; ``Path.resolve`` raises RuntimeError for those that go in a circle."""
    return Path(os.path.realpath(path))


def close_ledgers() -> None:
    """Close all of this process's ledgers."""
    while _open_ledgers:
        _open_ledgers.popitem()[1].close()


def names_built(project: Path, yaml: str) -> dict[str, str] | None:
    """Return the tasks of the last build by path, for completion; None if the YAML is newer."""
    path = project / ".kvm-compose" / "ledger.sqlite"
    try:
        if (project / "state.json").stat().st_mtime_ns < (project / yaml).stat().st_mtime_ns:
            return None
    except OSError:
        return None
    with contextlib.closing(copy_of_ledger(path)) as ledger:
        found = {each.path: each.task for each in ledger.records().values()}
    return found or None
