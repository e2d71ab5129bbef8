"""What the server remembers, in one SQLite file: deployments, actions, their steps and log lines.

SQLite in WAL mode: a killed server leaves whole transactions. Every call is short and made from the
server's one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
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
from kvmcompose.server.people import Person, this_user
from kvmcompose.server.schema import SCHEMA, VERSION, migrate

#: So many actions of a deployment are remembered, the latest ones.
HISTORY = 200


class StoreError(KvmComposeError):
    """The server's memory cannot be used."""


def now() -> str:
    """The present moment as RFC 3339, in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Database(sqlite3.Connection):
    """Whose trouble has words: most often it is that a disk is full."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        with _in_words():
            return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        with _in_words():
            return super().executemany(sql, parameters)


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"the server's memory cannot be used: {error}",
            hint="is there room where it lies? kvm-compose server --state-dir puts it elsewhere",
        ) from error


class Store:
    """The server's memory. ``path`` None keeps it in RAM."""

    def __init__(self, path: Path | None) -> None:
        """Open it, making it when needed. Raises StoreError."""
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # SQLite gives the files beside it the same permissions
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
                path.chmod(0o600)
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, factory=_Database)
            self._db.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
            )
            self._make_schema()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the server's memory, {path}: {error}") from error
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
                f"the server's memory is of version {version}, this server writes {VERSION}",
                hint="run the kvm-compose that wrote it, or take the testbeds down with that and remove it",
            )

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
        """Let go of the file."""
        self._db.close()

    # -- deployments

    def deployments(self) -> list[Deployment]:
        """All deployments, by name."""
        return [_deployment(row) for row in self._db.execute(f"{_DEPLOYMENTS} ORDER BY name")]

    def deployment(self, name: str) -> Deployment | None:
        """One deployment, None when there is none of that name."""
        row = self._db.execute(f"{_DEPLOYMENTS} WHERE name = ?", (name,)).fetchone()
        return _deployment(row) if row else None

    def put_deployment(self, new: NewDeployment, owner: Person | None = None) -> Deployment:
        """Make a deployment of ``owner`` (None: the server's user) known, or give one another folder."""
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
        """Whose a deployment is, by number and name; None when there is none of that name."""
        found: tuple[int, str] | None = self._db.execute(
            "SELECT owner_uid, owner FROM deployments WHERE name = ?", (name,)
        ).fetchone()
        return found

    def set_phase(self, name: str, phase: Phase, failed_command: str | None = None) -> None:
        """Where the deployment is in its life."""
        self._db.execute(
            "UPDATE deployments SET state = ?, failed_command = ? WHERE name = ?",
            (phase, failed_command, name),
        )

    def remove_deployment(self, name: str) -> None:
        """Forget a deployment and its history."""
        self._db.execute("DELETE FROM deployments WHERE name = ?", (name,))

    def deployed(self, name: str) -> bytes | None:
        """What was brought up last, as the orchestrator noted it; None when nothing is."""
        row = self._db.execute("SELECT deployed FROM deployments WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_deployed(self, name: str, document: bytes | None) -> None:
        """Note what is being brought up, before it is; None when it is gone."""
        self._db.execute("UPDATE deployments SET deployed = ? WHERE name = ?", (document, name))

    # -- actions

    def begin_action(
        self, name: str, command: Command, who: str | None, *, exclusive: bool, asked_by: str | None = None
    ) -> Action:
        """Note that an action begins; with ``exclusive`` the deployment is ``running`` meanwhile.

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
            self._db.execute(
                "INSERT INTO actions (uuid, deployment, command, options, state, started, who, asked_by)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    action.uuid, name, action.command, msgspec.json.encode(action.options),
                    action.state, action.started, who, asked_by,
                ),
            )  # fmt: skip
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
        """Note how an action ended and, with ``phase``, where that leaves its deployment."""
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
        """One action, None when there is none."""
        row = self._db.execute(f"{_ACTIONS} WHERE uuid = ?", (uuid,)).fetchone()
        return _action(row) if row else None

    def actions(self, name: str) -> list[Action]:
        """A deployment's actions, the latest first."""
        return [
            _action(row)
            for row in self._db.execute(f"{_ACTIONS} WHERE deployment = ? ORDER BY rowid DESC", (name,))
        ]

    def interrupt(self) -> list[Action]:
        """Mark as interrupted what ran when the server died; called when one starts."""
        found = [_action(row) for row in self._db.execute(f"{_ACTIONS} WHERE state = 'running'")]
        for action in found:
            self.append(
                action.uuid, Level.ERROR, "the server was killed or lost its machine while this was running"
            )
            fault = Fault(
                step="server",
                message="interrupted: the server died meanwhile",
                hint="`kvm-compose up` and `kvm-compose down` both go on from here",
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
        """Note a step, or how far it has come."""
        self._db.execute(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                uuid, number, step.name, step.stage, step.state, step.started, step.ended, step.guest,
                step.host,
            ),
        )  # fmt: skip

    def steps(self, uuid: str) -> list[Step]:
        """An action's steps in the order they began."""
        rows = self._db.execute(
            "SELECT name, stage, state, started, ended, guest, host FROM steps"
            " WHERE action = ? ORDER BY number",
            (uuid,),
        )
        return [
            Step(
                name=name, stage=stage, state=StepState(state), started=started, ended=ended, guest=guest,
                host=host,
            )
            for name, stage, state, started, ended, guest, host in rows
        ]  # fmt: skip

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
        self._db.execute(
            "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (uuid, line.sequence, line.time, level, text, stage, step, guest, host),
        )
        return line

    def drop_output(self, uuid: str, *, up_to: int) -> int:
        """Forget output of programs in an action's log, up to the line of this number; how many lines."""
        done = self._db.execute(
            "DELETE FROM lines WHERE action = ? AND sequence <= ? AND level = ?", (uuid, up_to, Level.OUTPUT)
        )
        return done.rowcount

    def lines(self, uuid: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """An action's log from the line after number ``after``, at most ``limit`` lines."""
        rows = self._db.execute(
            "SELECT sequence, time, level, text, stage, step, guest, host FROM lines"
            " WHERE action = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (uuid, after, limit),
        )
        return [
            LogLine(
                sequence=sequence, time=time, level=Level(level), text=text, stage=stage, step=step,
                guest=guest, host=host,
            )
            for sequence, time, level, text, stage, step, guest, host in rows
        ]  # fmt: skip

    # -- snapshots of guests that are off: what libvirt forgets with the domain

    def keep_snapshots(self, name: str, guest: str, snapshots: Sequence[tuple[str, str]]) -> None:
        """Note a guest's snapshots, as (name, XML), the oldest first."""
        with self._transaction():
            self._db.execute("DELETE FROM snapshots WHERE deployment = ? AND guest = ?", (name, guest))
            self._db.executemany(
                "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?)",
                [(name, guest, each, number, xml) for number, (each, xml) in enumerate(snapshots)],
            )

    def snapshots(self, name: str, guest: str) -> list[tuple[str, str]]:
        """What was noted, the oldest first."""
        rows = self._db.execute(
            "SELECT name, xml FROM snapshots WHERE deployment = ? AND guest = ? ORDER BY position",
            (name, guest),
        )
        return list(rows)


_DEPLOYMENTS = (
    "SELECT name, project_location, state, failed_command, last_action_uuid, owner FROM deployments"
)
_ACTIONS = (
    "SELECT uuid, deployment, command, options, state, started, ended, faults, refused, exit_status, who,"
    " asked_by"
    " FROM actions"
)


def _deployment(row: tuple[Any, ...]) -> Deployment:
    name, location, state, failed, last, owner = row
    return Deployment(
        name=name,
        project_location=location,
        state=Phase(state),
        failed_command=failed,
        last_action_uuid=last,
        owner=owner,
    )


def _action(row: tuple[Any, ...]) -> Action:
    uuid, deployment, command, options, state, started, ended, faults, refused, status, who, asked_by = row
    return Action(
        uuid=uuid,
        deployment=deployment,
        command=command,
        options=msgspec.json.decode(options),
        state=ActionState(state),
        started=started,
        ended=ended,
        faults=msgspec.json.decode(faults, type=tuple[Fault, ...]),
        refused=bool(refused),
        exit_status=status,
        who=who,
        asked_by=asked_by,
    )
