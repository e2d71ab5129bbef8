"""The server's database: deployments, actions, their steps and log lines, in one SQLite file.

SQLite in WAL mode: a killed server leaves whole transactions. Every call is short and made from the
server's one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from kvmcompose.core.deployment import (
    Action,
    ActionState,
    Command,
    Deployment,
    Fault,
    Level,
    LogLine,
    NewDeployment,
    Phase,
    Step,
    StepState,
    command_name,
)
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server.clock import now
from kvmcompose.server.people import Person, this_user
from kvmcompose.server.schema import MARKS, SCHEMA, VERSION, migrate

#: How many actions of a deployment are kept: the latest ones.
HISTORY = 200


class StoreError(KvmComposeError):
    """The server's database cannot be used."""


class _Database(sqlite3.Connection):
    """Translates SQLite errors. The usual one is a full disk."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        with _translated():
            return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        with _translated():
            return super().executemany(sql, parameters)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"cannot use the server's database: {error}",
            hint="is the disk full? kvm-compose server --state-dir uses another folder",
        ) from error


class Store:
    """The server's database. ``path`` None keeps it in RAM."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, and create it if necessary. Raises StoreError."""
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # SQLite gives the files beside it the same permissions
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
                path.chmod(0o600)
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, factory=_Database)
            self._db.row_factory = sqlite3.Row
            self._db.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
            )
            self._make_schema()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the server's database {path}: {error}") from error
        self._sequences: dict[str, int] = {}

    def _make_schema(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._transaction():
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif version == 1:
            with self._transaction():
                migrate(self._db)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise StoreError(
                f"the server's database has version {version}, and this server needs version {VERSION}",
                hint="run the kvm-compose that wrote it, or take the testbeds down with that and remove it",
            )
        self._db.execute(MARKS)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite has gone back by itself where a disk was full
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _insert(self, table: str, *, replace: bool = False, **values: object) -> None:
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        verb = "REPLACE" if replace else "INSERT"
        self._db.execute(f"{verb} INTO {table} ({columns}) VALUES ({places})", values)

    # -- deployments

    def deployments(self) -> list[Deployment]:
        """All deployments, by name."""
        return [_deployment(row) for row in self._db.execute("SELECT * FROM deployments ORDER BY name")]

    def deployment(self, name: str) -> Deployment | None:
        """Return a deployment, None when there is none of that name."""
        row = self._db.execute("SELECT * FROM deployments WHERE name = ?", (name,)).fetchone()
        return _deployment(row) if row else None

    def put_deployment(self, new: NewDeployment, owner: Person | None = None) -> Deployment:
        """Add a deployment of ``owner`` (None: the server's user), or change the folder of a known one."""
        owner = owner or this_user()
        self._db.execute(
            "INSERT INTO deployments (name, project_location, state, owner_uid, owner) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET project_location = excluded.project_location",
            (new.name, new.project_location, Phase.DOWN, owner.uid, owner.name),
        )
        found = self.deployment(new.name)
        assert found is not None  # noqa: S101 (it was just put there)
        return found

    def owner(self, name: str) -> tuple[int, str] | None:
        """Return the user ID and name of a deployment's owner; None when there is no such deployment."""
        row = self._db.execute("SELECT owner_uid, owner FROM deployments WHERE name = ?", (name,)).fetchone()
        return tuple(row) if row else None

    def set_phase(self, name: str, phase: Phase, failed_command: str | None = None) -> None:
        """Set the phase of a deployment."""
        self._db.execute(
            "UPDATE deployments SET state = ?, failed_command = ? WHERE name = ?",
            (phase, failed_command, name),
        )

    def remove_deployment(self, name: str) -> None:
        """Remove a deployment and its history."""
        self._db.execute("DELETE FROM deployments WHERE name = ?", (name,))

    def deployed(self, name: str) -> bytes | None:
        """Return what was brought up last, as the orchestrator stored it; None when nothing is up."""
        row = self._db.execute("SELECT deployed FROM deployments WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_deployed(self, name: str, document: bytes | None) -> None:
        """Store what is about to be brought up; None when nothing is up any more."""
        self._db.execute("UPDATE deployments SET deployed = ? WHERE name = ?", (document, name))

    # -- actions

    def begin_action(
        self, name: str, command: Command, who: str | None, *, exclusive: bool, asked_by: str | None = None
    ) -> Action:
        """Add an action that begins; with ``exclusive`` the deployment is ``running`` meanwhile.

        ``asked_by`` is the person, ``who`` what they call themselves.
        """
        action = Action(
            uuid=str(uuid4()),
            deployment=name,
            command=command_name(command),
            options={key: value for key, value in msgspec.to_builtins(command).items() if key != "command"},
            state=ActionState.RUNNING,
            started=now(),
            who=who,
            asked_by=asked_by,
        )
        with self._transaction():
            self._insert(
                "actions",
                uuid=action.uuid,
                deployment=name,
                command=action.command,
                options=msgspec.json.encode(action.options),
                state=action.state,
                started=action.started,
                who=who,
                asked_by=asked_by,
            )
            if exclusive:
                self._db.execute(
                    "UPDATE deployments SET state = ?, failed_command = NULL, last_action_uuid = ?"
                    " WHERE name = ?",
                    (Phase.RUNNING, action.uuid, name),
                )
            self._db.execute(
                "DELETE FROM actions WHERE deployment = ? AND state != 'running' AND rowid NOT IN"
                " (SELECT rowid FROM actions WHERE deployment = ? ORDER BY rowid DESC LIMIT ?)",
                (name, name, HISTORY),
            )
        return action

    def end_action(
        self,
        uuid: str,
        state: ActionState,
        *,
        faults: Sequence[Fault] = (),
        refused: bool = False,
        exit_status: int | None = None,
        phase: tuple[Phase, str | None] | None = None,
    ) -> None:
        """Store how an action ended and, with ``phase``, the phase of its deployment from then on."""
        with self._transaction():
            self._db.execute(
                "UPDATE actions SET state = ?, ended = ?, faults = ?, refused = ?, exit_status = ?"
                " WHERE uuid = ?",
                (state, now(), msgspec.json.encode(faults), refused, exit_status, uuid),
            )
            if phase is not None:
                self._db.execute(
                    "UPDATE deployments SET state = ?, failed_command = ?"
                    " WHERE name = (SELECT deployment FROM actions WHERE uuid = ?)",
                    (*phase, uuid),
                )
        self._sequences.pop(uuid, None)

    def action(self, uuid: str) -> Action | None:
        """Return an action, None when there is none of that UUID."""
        row = self._db.execute("SELECT * FROM actions WHERE uuid = ?", (uuid,)).fetchone()
        return _action(row) if row else None

    def actions(self, name: str) -> list[Action]:
        """Return a deployment's actions, the latest first."""
        rows = self._db.execute("SELECT * FROM actions WHERE deployment = ? ORDER BY rowid DESC", (name,))
        return [_action(row) for row in rows]

    def interrupt(self) -> list[Action]:
        """Mark as interrupted what was running when the last server died; return those actions."""
        found = [_action(row) for row in self._db.execute("SELECT * FROM actions WHERE state = 'running'")]
        for action in found:
            self.append(
                action.uuid,
                Level.ERROR,
                "the server was killed, or its machine failed, while this was running",
            )
            fault = Fault(
                step="server",
                message="interrupted: the server died",
                hint="`kvm-compose up` and `kvm-compose down` both continue from here",
            )
            deployment = self.deployment(action.deployment)
            was_in_charge = deployment is not None and deployment.last_action_uuid == action.uuid
            phase = (Phase.FAILED, action.command) if was_in_charge else None
            self.end_action(action.uuid, ActionState.INTERRUPTED, faults=[fault], phase=phase)
            self._db.execute(
                "UPDATE steps SET state = ?, ended = ? WHERE action = ? AND state = ?",
                (StepState.CANCELLED, now(), action.uuid, StepState.RUNNING),
            )
        return found

    # -- steps and lines

    def put_step(self, uuid: str, number: int, step: Step) -> None:
        """Store a step, or its new state."""
        self._insert("steps", replace=True, action=uuid, number=number, **msgspec.structs.asdict(step))

    def steps(self, uuid: str) -> list[Step]:
        """Return an action's steps in the order they began."""
        rows = self._db.execute("SELECT * FROM steps WHERE action = ? ORDER BY number", (uuid,))
        return [msgspec.convert(dict(row), Step) for row in rows]

    def append(
        self,
        uuid: str,
        level: Level,
        text: str,
        *,
        stage: str | None = None,
        step: str | None = None,
        guest: str | None = None,
        host: str | None = None,
    ) -> LogLine:
        """Add a line to an action's log."""
        if uuid not in self._sequences:
            row = self._db.execute("SELECT max(sequence) FROM lines WHERE action = ?", (uuid,)).fetchone()
            self._sequences[uuid] = row[0] or 0
        self._sequences[uuid] += 1
        line = LogLine(
            sequence=self._sequences[uuid],
            time=now(),
            level=level,
            text=text,
            stage=stage,
            step=step,
            guest=guest,
            host=host,
        )
        self._insert("lines", action=uuid, **msgspec.structs.asdict(line))
        return line

    def drop_output(self, uuid: str, *, up_to: int) -> int:
        """Remove the output of programs from an action's log, up to line ``up_to``; return how many lines."""
        done = self._db.execute(
            "DELETE FROM lines WHERE action = ? AND sequence <= ? AND level = ?", (uuid, up_to, Level.OUTPUT)
        )
        return done.rowcount

    def lines(self, uuid: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Return an action's log from the line after number ``after``, at most ``limit`` lines."""
        rows = self._db.execute(
            "SELECT * FROM lines WHERE action = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (uuid, after, limit),
        )
        return [msgspec.convert(dict(row), LogLine) for row in rows]

    # -- snapshots of guests that are off: what libvirt forgets with the domain

    def keep_snapshots(self, name: str, guest: str, snapshots: Sequence[tuple[str, str]]) -> None:
        """Store a guest's snapshots, as (name, XML), the oldest first."""
        with self._transaction():
            self._db.execute("DELETE FROM snapshots WHERE deployment = ? AND guest = ?", (name, guest))
            self._db.executemany(
                "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?)",
                [(name, guest, each, number, xml) for number, (each, xml) in enumerate(snapshots)],
            )

    def put_mark(self, name: str, kind: str, guest: str, digest: str | None) -> None:
        """Remember what has run in a guest; None: nothing is known of it any more."""
        if digest is None:
            self._db.execute(
                "DELETE FROM marks WHERE deployment = ? AND kind = ? AND guest = ?", (name, kind, guest)
            )
        else:
            self._insert("marks", replace=True, deployment=name, kind=kind, guest=guest, digest=digest)

    def forget_marks(self, name: str, guest: str | None = None) -> None:
        """Forget what has run in a guest, or in all of them."""
        self._db.execute(
            "DELETE FROM marks WHERE deployment = ? AND (guest = ? OR ? IS NULL)", (name, guest, guest)
        )

    def marks(self, name: str, kind: str) -> dict[str, str]:
        """Return the digests of what has run in guests."""
        rows = self._db.execute(
            "SELECT guest, digest FROM marks WHERE deployment = ? AND kind = ?", (name, kind)
        )
        return {row["guest"]: row["digest"] for row in rows}

    def snapshots(self, name: str, guest: str) -> list[tuple[str, str]]:
        """Return the stored snapshots of a guest as (name, XML), the oldest first."""
        rows = self._db.execute(
            "SELECT name, xml FROM snapshots WHERE deployment = ? AND guest = ? ORDER BY position",
            (name, guest),
        )
        return [tuple(row) for row in rows]


def _deployment(row: sqlite3.Row) -> Deployment:
    return msgspec.convert(dict(row), Deployment)


def _action(row: sqlite3.Row) -> Action:
    decoded = {
        "options": msgspec.json.decode(row["options"]),
        "faults": msgspec.json.decode(row["faults"]),
        "refused": bool(row["refused"]),
    }
    return msgspec.convert({**dict(row), **decoded}, Action)
