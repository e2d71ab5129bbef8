"""The ledger: what was built, of what, and what it looked like: the one truth about what is up to date.

An SQLite file in the project's ``.kvm-compose`` folder. Before a file takes its place its digest is
written down as intended, and after that as done; so a build that was killed in between does not later
take its own file for one that the user edited, nor a half-built one for done.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import sqlite3
import stat
import tempfile
import threading
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.build.stamp import drop_standing
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.opening import read_regular
from kvmcompose.effects.private import foreign, prepare, refuse_foreign
from kvmcompose.effects.stat_cache import Remembered, Signature

#: Raised whenever the tables or the meaning of a digest change; another version's ledger is not read.
LEDGER_VERSION = 2
#: What those who look read of it at the most, in bytes; that of 10,000 guests has a fiftieth of it.
LEDGER_LIMIT = 1 << 31
#: So often a copy is taken again when somebody wrote meanwhile.
_TRIES = 3

_TABLES = """
CREATE TABLE artefacts (
    path TEXT PRIMARY KEY, task TEXT, policy TEXT, recipe TEXT, content TEXT,
    size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
    offered TEXT, inputs BLOB
) WITHOUT ROWID;
CREATE INDEX artefacts_by_task ON artefacts (task);
CREATE TABLE intended (
    path TEXT PRIMARY KEY, task TEXT, policy TEXT, recipe TEXT, content TEXT, inputs BLOB
) WITHOUT ROWID;
CREATE TABLE files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, digest TEXT
) WITHOUT ROWID;
CREATE TABLE doit (task TEXT PRIMARY KEY, data TEXT) WITHOUT ROWID;
CREATE TABLE origin (inode INTEGER);
"""


#: The rows that are what was written, as far as their types tell; a damaged one counts as not there.
_RECORDS = (
    "SELECT path, task, policy, recipe, content, size, mtime_ns, ctime_ns, inode, offered FROM artefacts "
    "WHERE typeof(path) || typeof(task) || typeof(recipe) || typeof(content) = 'texttexttexttext' AND "
    "typeof(size) || typeof(mtime_ns) || typeof(ctime_ns) || typeof(inode) = 'integerintegerintegerinteger' "
    "AND policy IN ('text', 'reproducible', 'mutable', 'link')"
)

#: What SQLite calls troubles that have nothing to do with a ledger's content: the place, a lock, the disk.
_ELSEWHERE = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


def _is_content(error: sqlite3.Error) -> bool:
    """Whether an error is about what stands in the ledger, so that no other will do but a new one."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _ELSEWHERE


_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Record(msgspec.Struct, frozen=True):
    """An artefact as it was built.

    ``recipe`` is the digest of ``inputs`` (a JSON document), ``content`` that of the file, which has
    not changed while ``signature`` is the same. ``offered`` tells of the ``.new`` file that was last laid
    beside an edited one; see ``build.offers``.
    """

    path: str
    task: str
    policy: str
    recipe: str
    content: str
    signature: Signature
    offered: str | None = None
    inputs: bytes = b""


class Intent(msgspec.Struct, frozen=True):
    """An artefact about to be put in its place."""

    path: str
    task: str
    policy: str
    recipe: str
    content: str
    inputs: bytes


def _is_ours(path: str) -> bool:
    """Whether a path may be that of an artefact: a ledger is a file like others, and may be forged."""
    steps = path.split("/")
    below = steps[0] == "artefacts" and len(steps) > 1 and {"", ".", ".."}.isdisjoint(steps)
    return (below or path == "state.json") and path.isprintable()


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_pending(path: Path) -> bytes:
    """What a build that runs, or was killed, has not moved into the ledger yet."""
    try:
        return read_regular(path, limit=LEDGER_LIMIT, follow=False)
    except FileNotFoundError:
        return b""


def _is_short(data: bytearray) -> bool:
    """See ``_is_cut_off``."""
    page, pages, counter, valid_for = (
        int.from_bytes(data[start:end]) for start, end in ((16, 18), (28, 32), (24, 28), (92, 96))
    )
    return counter == valid_for and len(data) < (page if page > 1 else 2**16) * pages


def _is_cut_off(path: Path) -> bool:
    """Whether a ledger that is at rest has lost its end, which SQLite may never notice.

    Its header tells the size of a page and how many there are (sqlite.org/fileformat2.html, section 1.3).
    """
    pending = path.with_name(f"{path.name}-wal")
    if pending.exists():
        return False  # what is not in the one file may be in the other
    with path.open("rb") as file:
        header = file.read(100)
        size = os.fstat(file.fileno()).st_size
    page, pages, counter, valid_for = (
        int.from_bytes(header[start:end]) for start, end in ((16, 18), (28, 32), (24, 28), (92, 96))
    )
    cut_off = counter == valid_for and size < (page if page > 1 else 2**16) * pages
    return cut_off and not pending.exists()


def _check_schema(connection: sqlite3.Connection) -> None:
    """Refuse tables that are not ours: a view can ask for endless work, a trigger change what is written.

    Raises sqlite3.DatabaseError.
    """
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name LIMIT 100"
    with contextlib.closing(sqlite3.connect(":memory:")) as blank:
        blank.executescript(_TABLES)
        wanted = blank.execute(schema).fetchall()
    if connection.execute(schema).fetchall() != wanted:
        raise sqlite3.DatabaseError("its tables are not those of a ledger")


def _lay_out(connection: sqlite3.Connection, inode: int) -> None:
    """Make the tables of a new ledger. ``inode`` is that of its file."""
    connection.executescript(
        f"BEGIN; {_TABLES} INSERT INTO origin VALUES ({inode});"  # noqa: S608 (numbers of ours)
        f"PRAGMA user_version = {LEDGER_VERSION}; COMMIT;"
    )
    # not before: closing would put in its place what is in the log, and not say that there was no room
    connection.execute("PRAGMA journal_mode = WAL")


class Ledger:
    """The ledger of one project. Safe to share between threads."""

    def __init__(self, path: Path | None) -> None:
        """Open the ledger at ``path``, made when it is not there; None is an empty one in memory."""
        self.path = path
        #: Set when an unreadable ledger had to be put aside; for the user to be told once.
        self.notice: str | None = None
        self._guard = threading.RLock()
        self._owner = os.getpid()
        #: Why it can only be read; empty when it can be written.
        self.read_only = ""
        self._inode: int | None = None
        if path is None:
            self._open_connection = self._open()
            return
        prepare(path.parent)
        if not path.exists():
            self._create(instead_of=None)
        try:
            self._open_connection = self._open()
        except sqlite3.DatabaseError as error:
            if not _is_content(error):
                self._open_connection = self._open_to_read(path, error)
                return
            self._begin_anew(error)

    def _begin_anew(self, error: sqlite3.Error) -> None:
        """Put an unreadable ledger away: what lies in the folder is looked at, and what is right taken in."""
        if self.read_only:
            raise error
        self.notice = f"the ledger cannot be read ({error}): everything is looked at afresh"
        if self.path is None:
            self._open_connection = self._open()
            return
        self._create(instead_of=self._inode)
        self._open_connection = self._open()

    def _create(self, *, instead_of: int | None) -> None:
        """A new ledger, whole or not at all, unless another process has been faster.

        ``instead_of`` is the inode of the unreadable one, None when there is none.
        """
        path = self.path
        if path is None:
            return
        lock = os.open(path.with_name("ledger.lock"), _LOCK_FLAGS, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (path.stat().st_ino if path.exists() else None) != instead_of:
                return
            new = path.with_name("ledger.new")
            # what is left of a lost ledger would be read into the new one
            for name in (path.name, new.name):
                for each in (name, f"{name}-wal", f"{name}-shm"):
                    path.with_name(each).unlink(missing_ok=True)
            # SQLite gives its other files the mode of this one
            os.close(os.open(new, _LOCK_FLAGS | os.O_EXCL, 0o600))
            connection = sqlite3.connect(new, isolation_level=None)
            try:
                _lay_out(connection, new.stat().st_ino)
            except sqlite3.Error as error:
                connection.close()
                new.unlink(missing_ok=True)
                raise KvmComposeError(f"cannot make the ledger: {error}") from error
            connection.close()
            # with the old one is lost what the standing leaves to it
            drop_standing(str(path.parent))
            new.replace(path)
        finally:
            os.close(lock)

    def _open_to_read(self, path: Path, cause: sqlite3.Error) -> sqlite3.Connection:
        """The ledger in a folder that cannot be written to."""
        name = f"file:{urllib.parse.quote(str(path))}?immutable=1"
        try:
            connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
            self._check(connection)
        except sqlite3.Error:
            raise OSError(errno.EACCES, f"cannot open the ledger: {cause}") from cause
        self.read_only = str(cause)
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raises sqlite3.DatabaseError for a ledger that is damaged, or of another project or version."""
        _check_schema(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != LEDGER_VERSION:
            raise sqlite3.DatabaseError(f"it has version {version}, not {LEDGER_VERSION}")
        # It vouches for files, so one that came along with a project from elsewhere must not count. Who
        # packs it cannot know the inode that it is going to have.
        origin = connection.execute("SELECT inode FROM origin").fetchone()
        if self.path is not None and origin != (self.path.stat().st_ino,):
            raise sqlite3.DatabaseError("it was copied here")

    @property
    def _connection(self) -> sqlite3.Connection:
        """An SQLite connection must not cross a fork (doit -n forks): a child opens its own."""
        if self._owner != os.getpid():
            self._open_connection = self._open()
            self._owner = os.getpid()
        return self._open_connection

    def _open(self) -> sqlite3.Connection:
        name = ":memory:" if self.path is None else self.path
        if self.path is not None and self.path.exists():
            status = self.path.stat()
            self._inode = status.st_ino
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise sqlite3.DatabaseError("it is no file")  # a named pipe would keep us waiting
            if _is_cut_off(self.path):
                raise sqlite3.DatabaseError("its end is missing")
        connection = sqlite3.connect(name, timeout=60, isolation_level=None, check_same_thread=False)
        self._inode = self.path.stat().st_ino if self.path is not None else None
        try:
            # a killed process loses nothing; a power cut may lose the last moments, never the consistency
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if self.path is None:
                _lay_out(connection, 0)
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def load(self, path: Path) -> None:
        """Take in what the ledger at ``path`` holds, without touching it. Raises OSError, sqlite3.Error."""
        for _ in range(_TRIES):
            before = _identity(path)
            data = bytearray(read_regular(path, limit=LEDGER_LIMIT, follow=False))
            pending = _read_pending(path.with_name(f"{path.name}-wal"))
            if _identity(path) == before:  # else somebody wrote to it meanwhile
                break
        if _is_short(data) and not pending:
            raise sqlite3.DatabaseError("its end is missing")
        connection = self._open_connection
        if pending:
            with tempfile.TemporaryDirectory(prefix="kvm-compose-") as place:
                copy = Path(place) / path.name
                copy.write_bytes(data)
                copy.with_name(f"{path.name}-wal").write_bytes(pending)
                with contextlib.closing(sqlite3.connect(copy)) as source:
                    source.backup(connection)
        else:
            data[18:20] = b"\1\1"  # no log beside it (sqlite.org/fileformat2.html, 1.3.3)
            connection.deserialize(bytes(data))
        self._check(connection)
        if connection.execute("SELECT inode FROM origin").fetchone() != (before[0],):
            raise sqlite3.DatabaseError("it was copied here")

    def close(self) -> None:
        """Give the file back."""
        with self._guard:
            self._connection.close()

    def _write(self, *steps: tuple[str, Iterable[Sequence[Any]]]) -> None:
        """Execute statements, each for all of its rows, as one transaction."""
        todo = [(statement, list(rows)) for statement, rows in steps]
        with self._guard:
            try:
                self._transact(todo)
            except sqlite3.DatabaseError as error:
                if not _is_content(error):
                    raise KvmComposeError(f"cannot write the ledger: {error}") from error
                self._begin_anew(error)
                self._transact(todo)

    def _transact(self, steps: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
        connection = self._connection
        if connection.in_transaction:  # Ctrl-C can fall between any two lines here
            connection.execute("ROLLBACK")
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement, rows in steps:
                connection.executemany(statement, rows)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _read(self, statement: str, *parameters: Any) -> list[Any]:
        """The rows of a query; none of a ledger that turns out to be damaged."""
        with self._guard:
            try:
                return self._connection.execute(statement, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                if not _is_content(error):
                    raise KvmComposeError(f"cannot read the ledger: {error}") from error
                self._begin_anew(error)
                return []

    def records(self, paths: Sequence[str] | None = None) -> dict[str, Record]:
        """What was built, by path, without the inputs: everything, or what there is of ``paths``."""
        if paths is None:
            rows = self._read(_RECORDS)
        else:
            rows = [row for path in paths for row in self._read(f"{_RECORDS} AND path = ?", path)]
        return {
            path: Record(path, task, policy, recipe, content, Signature(*signature), offered)
            for path, task, policy, recipe, content, *signature, offered in rows
            if _is_ours(path) and task.isprintable()
        }

    def inputs(self, path: str) -> bytes | None:
        """The inputs that an artefact was made of, as the JSON document that its digest was taken of.

        None when they are not known, as after ``invalidate``.
        """
        for inputs, recipe in self._read("SELECT inputs, recipe FROM artefacts WHERE path = ?", path):
            if isinstance(inputs, bytes) and hashlib.sha256(inputs).hexdigest() == recipe:
                return inputs
        return None

    def intend(self, intents: Iterable[Intent]) -> None:
        """Write down what is about to be put in place."""
        rows = [(i.path, i.task, i.policy, i.recipe, i.content, i.inputs) for i in intents]
        self._write(("INSERT OR REPLACE INTO intended VALUES (?, ?, ?, ?, ?, ?)", rows))

    def intents(self) -> list[Intent]:
        """What was about to be put in place when a build was killed."""
        rows = self._read("SELECT path, task, policy, recipe, content, inputs FROM intended")
        rows = [row for row in rows if [type(each) for each in row] == [*[str] * 5, bytes]]
        return [Intent(*row) for row in rows if _is_ours(row[0]) and row[1].isprintable()]

    def record(self, records: Iterable[Record]) -> None:
        """Write down what is in place; the intents for these paths are done with."""
        rows = [
            (
                r.path,
                r.task,
                r.policy,
                r.recipe,
                r.content,
                *msgspec.structs.astuple(r.signature),
                r.offered,
                r.inputs,
            )
            for r in records
        ]
        self._write(
            ("INSERT OR REPLACE INTO artefacts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows),
            ("DELETE FROM intended WHERE path = ?", [row[:1] for row in rows]),
        )

    def refresh(self, signatures: Iterable[tuple[str, Signature]]) -> None:
        """These files are what they were, but ``stat`` says otherwise: note what it says now."""
        rows = [(*msgspec.structs.astuple(signature), path) for path, signature in signatures]
        if rows:
            update = "UPDATE artefacts SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE path = ?"
            self._write((update, rows))

    def drop(self, paths: Iterable[str]) -> None:
        """Forget that these were ever built or intended."""
        rows = [(path,) for path in paths]
        self._write(
            ("DELETE FROM artefacts WHERE path = ?", rows), ("DELETE FROM intended WHERE path = ?", rows)
        )

    def drop_intents(self, paths: Iterable[str]) -> None:
        """These were not put in place after all."""
        self._write(("DELETE FROM intended WHERE path = ?", [(path,) for path in paths]))

    def invalidate(self, task: str | None) -> None:
        """Make a task (or all) run again: what its artefact was made of counts as unknown."""
        if self.path is not None:
            drop_standing(str(self.path.parent))
        if task is None:
            self._write(("UPDATE artefacts SET recipe = ''", [()]))
        else:
            self._write(("UPDATE artefacts SET recipe = '' WHERE task = ?", [(task,)]))

    def file_digests(self) -> list[tuple[str, Remembered]]:
        """The digests of input files, remembered from earlier builds."""
        rows = self._read("SELECT path, size, mtime_ns, ctime_ns, inode, digest FROM files")
        return [
            (path, Remembered(Signature(*signature), digest))
            for path, *signature, digest in rows
            if isinstance(path, str) and isinstance(digest, str)
        ]

    def remember_files(self, files: Iterable[tuple[str, Remembered]]) -> None:
        """Keep digests of input files for the next build."""
        rows = [(path, *msgspec.structs.astuple(each.signature), each.digest) for path, each in files]
        if rows:
            self._write(("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows))

    def doit_rows(self) -> dict[str, str]:
        """Doit's own records of tasks."""
        rows = self._read("SELECT task, data FROM doit")
        return {task: data for task, data in rows if isinstance(task, str) and isinstance(data, str)}

    def save_doit_rows(self, changed: Iterable[tuple[str, str]], removed: Iterable[str]) -> None:
        """Keep doit's own records of tasks."""
        self._write(
            ("DELETE FROM doit WHERE task = ?", [(task,) for task in removed]),
            ("INSERT OR REPLACE INTO doit VALUES (?, ?)", changed),
        )


def look_at_ledger(path: Path) -> Ledger:
    """A copy of the ledger in memory, for those who only look: nothing is written in the project.

    Whatever is wrong with it is its ``notice``, and then it is empty.
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
        found.notice = f"the ledger {path.name} cannot be read ({why}): everything is looked at afresh"
    return found


_open_ledgers: dict[Path, Ledger] = {}


def share_ledger(path: Path, ledger: Ledger) -> None:
    """Let ``open_ledger`` give this one, which may be in memory only, to whoever asks for ``path``."""
    _open_ledgers[_resolved(path)] = ledger


def open_ledger(path: Path) -> Ledger:
    """The ledger at ``path``, one object per file and process (doit's store and ours are the same)."""
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
    """The tasks of the last build by path, for the shell to complete; None if the YAML is newer."""
    path = project / ".kvm-compose" / "ledger.sqlite"
    try:
        if (project / "state.json").stat().st_mtime_ns < (project / yaml).stat().st_mtime_ns:
            return None
    except OSError:
        return None
    with contextlib.closing(look_at_ledger(path)) as ledger:
        found = {each.path: each.task for each in ledger.records().values()}
    return found or None
