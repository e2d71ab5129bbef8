"""The SQLite file of a ledger: made whole or not at all, opened with suspicion, replaced when damaged.

A ledger is a file of the project folder, which may come from elsewhere: its tables, its size and its origin
are checked before anything in it counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import tempfile
import threading
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kvmcompose.build.stamp import drop_stamp
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.locking import lock
from kvmcompose.effects.opening import read_regular
from kvmcompose.effects.private import prepare

#: Raised whenever the tables or the meaning of a digest change; another version's ledger is not read.
LEDGER_VERSION = 2
#: The largest ledger that is read as a copy, in bytes; that of 10,000 guests has a fiftieth of it.
LEDGER_LIMIT = 1 << 31
#: The longest path (bytes) of a database that SQLite opens everywhere, with its other files beside it.
_LONGEST_PATH = 500
#: How often a copy is taken again when the ledger was written meanwhile.
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

#: SQLite's errors that are not about a ledger's content, but about its place, a lock or the disk.
_NOT_DAMAGE = frozenset(
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


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error is about the content of the ledger, so that it has to be replaced."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _NOT_DAMAGE


_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_pending(path: Path) -> bytes:
    """Return the write-ahead log of a build that runs or was killed; empty if there is none."""
    try:
        return read_regular(path, limit=LEDGER_LIMIT, follow=False)
    except FileNotFoundError:
        return b""


def _is_truncated(header: bytes, size: int) -> bool:
    """Return whether a closed database of ``size`` bytes lacks its end, which SQLite may not notice.

    Its header has the size of a page and their number (sqlite.org/fileformat2.html, section 1.3).
    """
    page, pages, counter, valid_for = (
        int.from_bytes(header[start:end]) for start, end in ((16, 18), (28, 32), (24, 28), (92, 96))
    )
    return counter == valid_for and size < (page if page > 1 else 2**16) * pages


def _is_cut_off(path: Path) -> bool:
    """Return whether a ledger lacks its end. If there is a write-ahead log, that may contain the rest."""
    pending = path.with_name(f"{path.name}-wal")
    if pending.exists():
        return False
    with path.open("rb") as file:
        header = file.read(100)
        size = os.fstat(file.fileno()).st_size
    return _is_truncated(header, size) and not pending.exists()


def _check_schema(connection: sqlite3.Connection) -> None:
    """Refuse foreign tables: a view can ask for endless work, a trigger can change what is written.

    Raises sqlite3.DatabaseError.
    """
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name LIMIT 100"
    with contextlib.closing(sqlite3.connect(":memory:")) as blank:
        blank.executescript(_TABLES)
        wanted = blank.execute(schema).fetchall()
    if connection.execute(schema).fetchall() != wanted:
        raise sqlite3.DatabaseError("its tables are not those of a ledger")


def _lay_out(connection: sqlite3.Connection, inode: int) -> None:
    """Create the tables of a new ledger. ``inode`` is that of its file."""
    connection.executescript(
        f"BEGIN; {_TABLES} INSERT INTO origin VALUES ({inode});"  # noqa: S608 (numbers of ours)
        f"PRAGMA user_version = {LEDGER_VERSION}; COMMIT;"
    )
    # not before: closing moves the log into the file, and does not report a full disk
    connection.execute("PRAGMA journal_mode = WAL")


class LedgerDatabase:
    """The database of one project's ledger. Safe to share between threads and forked processes."""

    def __init__(self, path: Path | None) -> None:
        """Open the ledger at ``path``, creating it if necessary; None is an empty one in memory."""
        self.path = path
        #: Set when an unreadable ledger had to be replaced; to be reported once.
        self.notice: str | None = None
        self._guard = threading.RLock()
        self._owner = os.getpid()
        #: Why it can only be read; empty if it can be written.
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
            if not _is_damage(error):
                self._open_connection = self._open_to_read(path, error)
                return
            self._replace(error)

    def _replace(self, error: sqlite3.Error) -> None:
        """Replace an unreadable ledger by an empty one: the next decisions compare the files themselves."""
        if self.read_only:
            raise error
        self.notice = f"the ledger cannot be read ({error}): everything is checked again"
        if self.path is None:
            self._open_connection = self._open()
            return
        self._create(instead_of=self._inode)
        self._open_connection = self._open()

    def _create(self, *, instead_of: int | None) -> None:
        """Create a ledger, whole or not at all, unless another process was faster.

        ``instead_of`` is the inode of the unreadable one, None if there is none.
        """
        path = self.path
        if path is None:
            return
        place = path.with_name("ledger.lock")
        handle = os.open(place, _LOCK_FLAGS, 0o600)
        try:
            lock(handle, place)
            if (path.stat().st_ino if path.exists() else None) != instead_of:
                return
            new = path.with_name("ledger.new")
            # SQLite would read the log of a lost ledger into the new one
            for name in (path.name, new.name):
                for each in (name, f"{name}-wal", f"{name}-shm"):
                    path.with_name(each).unlink(missing_ok=True)
            # SQLite gives its other files the mode of this one
            os.close(os.open(new, _LOCK_FLAGS | os.O_EXCL, 0o600))
            try:
                with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
                    _lay_out(connection, new.stat().st_ino)
            except sqlite3.Error as error:
                new.unlink(missing_ok=True)
                hint = None
                if len(os.fsencode(path)) > _LONGEST_PATH:
                    hint = "SQLite cannot open files with such a long path: move the project up"
                raise KvmComposeError(f"cannot make the ledger: {error}", hint=hint) from error
            # the build stamp relies on what the old ledger had recorded
            drop_stamp(str(path.parent))
            new.replace(path)
        finally:
            os.close(handle)

    def _open_to_read(self, path: Path, cause: sqlite3.Error) -> sqlite3.Connection:
        """Open the ledger of a folder that is not writable."""
        name = f"file:{urllib.parse.quote(str(path))}?immutable=1"
        try:
            connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
            self._check(connection)
        except sqlite3.Error:
            raise OSError(errno.EACCES, f"cannot open the ledger: {cause}") from cause
        self.read_only = str(cause)
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Raise sqlite3.DatabaseError for a ledger that is damaged, or of another project or version."""
        _check_schema(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != LEDGER_VERSION:
            raise sqlite3.DatabaseError(f"it has version {version}, not {LEDGER_VERSION}")
        # A ledger vouches for files, so one that came with a project from elsewhere must not count: the
        # author of an archive cannot know the inode that the ledger is going to have.
        origin = connection.execute("SELECT inode FROM origin").fetchone()
        if self.path is not None and origin != (self.path.stat().st_ino,):
            raise sqlite3.DatabaseError("it was copied here")

    @property
    def _connection(self) -> sqlite3.Connection:
        """The connection of this process: one of SQLite must not cross a fork, so a child opens its own."""
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
                raise sqlite3.DatabaseError("it is not a file")  # opening a named pipe would block
            if _is_cut_off(self.path):
                raise sqlite3.DatabaseError("its end is missing")
        connection = sqlite3.connect(name, timeout=60, isolation_level=None, check_same_thread=False)
        self._inode = self.path.stat().st_ino if self.path is not None else None
        try:
            # a killed process loses nothing; a power cut may lose the last transactions, not consistency
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
        """Read a copy of the ledger at ``path`` into memory. Raises OSError, sqlite3.Error."""
        for _ in range(_TRIES):
            before = _identity(path)
            data = bytearray(read_regular(path, limit=LEDGER_LIMIT, follow=False))
            pending = _read_pending(path.with_name(f"{path.name}-wal"))
            if _identity(path) == before:  # otherwise a build has written to it
                break
        if _is_truncated(bytes(data[:100]), len(data)) and not pending:
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
        """Close the connection."""
        with self._guard:
            self._connection.close()

    def write(self, *steps: tuple[str, Iterable[Sequence[Any]]]) -> None:
        """Execute statements, each for all of its rows, as one transaction."""
        todo = [(statement, list(rows)) for statement, rows in steps]
        with self._guard:
            try:
                self._transact(todo)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    hint = "free space on that file system" if _is_full(error) else None
                    where = self.path or "the ledger in memory"
                    raise KvmComposeError(f"cannot write {where}: {error}", hint=hint) from error
                self._replace(error)
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

    def read(self, statement: str, *parameters: Any) -> list[Any]:
        """Return the rows of a query; none if the ledger turns out to be damaged."""
        with self._guard:
            try:
                return self._connection.execute(statement, parameters).fetchall()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise KvmComposeError(f"cannot read the ledger: {error}") from error
                self._replace(error)
                return []
