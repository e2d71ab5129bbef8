"""The server's SQLite file: opened, and brought to this version's tables.

SQLite in WAL mode: a killed server leaves whole transactions. Every call is short and made from the
server's one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.schema import MARKS, MARKS_INDEX, PLACES, SCHEMA, VERSION, migrate


class StoreError(KvmComposeError):
    """The server's database cannot be used."""


class ServerDatabase(sqlite3.Connection):
    """Translates SQLite errors. The usual one is a full disk."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute one statement. Raises StoreError."""
        with _translated():
            return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Execute one statement with several sets of values. Raises StoreError."""
        with _translated():
            return super().executemany(sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all that the block does, or nothing of it; with the block around it, if there is one."""
        if self.in_transaction:
            yield
            return
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.in_transaction:  # SQLite has gone back by itself where a disk was full
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def insert(self, table: str, *, replace: bool = False, **values: object) -> None:
        """Add a row."""
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        verb = "REPLACE" if replace else "INSERT"
        self.execute(f"{verb} INTO {table} ({columns}) VALUES ({places})", values)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"cannot use the server's database: {error}",
            hint="is the disk full? kvm-compose server --state-dir uses another folder",
        ) from error


def open_database(path: Path | None) -> ServerDatabase:
    """Open the file, and create it if necessary; None keeps it in RAM. Raises StoreError."""
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite gives the files beside it the same permissions
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            path.chmod(0o600)
        db = sqlite3.connect(path or ":memory:", isolation_level=None, factory=ServerDatabase)
        db.row_factory = sqlite3.Row
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;")
        _make_schema(db)
        db.execute(MARKS)
        db.execute(MARKS_INDEX)
        db.execute(PLACES)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot open the server's database {path}: {error}") from error
    return db


def _make_schema(db: ServerDatabase) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreError(
            f"the server's database has version {version}, and this server needs version {VERSION}",
            hint="run the kvm-compose that wrote it, or take the testbeds down with that and remove it",
        )
    if version == VERSION:
        return
    with db.transaction():
        if version == 0:
            for statement in SCHEMA.split(";"):
                db.execute(statement)
        else:
            migrate(db, version)
        db.execute(f"PRAGMA user_version = {VERSION}")
