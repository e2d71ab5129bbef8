"""The tables of the server's database, and the migration of older ones."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvmcompose.core.deployment import Level, LogLine, Step, StepState
from kvmcompose.core.deployment_event import LineAdded, StepEnded, StepStarted
from kvmcompose.server.people import login_name

VERSION = 4
#: ``sequence`` is that of a line in the log of its action, and the negative number of a step. ``output`` is
#: set for lines that a program printed. ``document`` is the event. ``dropped`` of a deployment and of an
#: action is the highest number of an event that is no longer kept. ``guests`` has the last event of each
#: guest. ``removed`` has one row: the highest number of a deployment that was removed. New ones go on from
#: there, so that no number has two meanings.
_EVENTS = """
CREATE TABLE events (
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    action TEXT REFERENCES actions (uuid) ON DELETE CASCADE,
    sequence INTEGER, output INTEGER NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY (deployment, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX events_of ON events (action, deployment, number);
CREATE INDEX lines_of ON events (action, sequence) WHERE sequence IS NOT NULL;
CREATE TABLE guests (
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    guest TEXT NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY (deployment, guest)
) STRICT, WITHOUT ROWID;
CREATE TABLE removed (number INTEGER NOT NULL) STRICT;
INSERT INTO removed VALUES (0)"""
#: What was brought up, perhaps megabytes: not in the rows of deployments, which change all the time.
_BROUGHT_UP = """
CREATE TABLE brought_up (
    deployment TEXT PRIMARY KEY REFERENCES deployments (name) ON DELETE CASCADE, document BLOB NOT NULL
) STRICT"""
SCHEMA = (
    """
CREATE TABLE deployments (
    name TEXT PRIMARY KEY, project_location TEXT NOT NULL, state TEXT NOT NULL,
    failed_command TEXT, last_action_uuid TEXT,
    owner_uid INTEGER NOT NULL, owner TEXT NOT NULL, dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE actions (
    uuid TEXT PRIMARY KEY,
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    command TEXT NOT NULL, options BLOB NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
    faults BLOB NOT NULL DEFAULT x'5b5d', refused INTEGER NOT NULL DEFAULT 0, exit_status INTEGER, who TEXT,
    asked_by TEXT, dropped INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX actions_of ON actions (deployment);
CREATE TABLE snapshots (
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    guest TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, xml TEXT NOT NULL,
    PRIMARY KEY (deployment, guest, name)
) STRICT, WITHOUT ROWID;
"""
    + _EVENTS
    + ";"
    + _BROUGHT_UP
)
#: What is known to have run in guests: it can be lost, then guests are asked. And, of the kind ``intent``,
#: what ``stop`` and ``pause`` were used for. Older servers do not know this table.
MARKS = """
CREATE TABLE IF NOT EXISTS marks (
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    kind TEXT NOT NULL, guest TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (deployment, kind, guest)
) STRICT, WITHOUT ROWID
"""
#: A guest's marks are looked for at each of its starts.
MARKS_INDEX = "CREATE INDEX IF NOT EXISTS marks_of ON marks (deployment, guest)"


#: Where a testbed is drawn, for each kind of picture: it can be lost, then everything is placed again.
#: Older servers do not know this table.
PLACES = """
CREATE TABLE IF NOT EXISTS places (
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    kind TEXT NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY (deployment, kind)
) STRICT, WITHOUT ROWID
"""

#: A mark of a deployment that was up when its server became one that has marks: all had run in its guests.
COMPLETE_MARK = "complete"


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring the tables of an older version up to date, within the caller's transaction."""
    if version < 2:  # noqa: PLR2004
        _add_owners(db)
        db.execute(MARKS)
        db.execute(
            "INSERT INTO marks SELECT name, ?, '', state FROM deployments WHERE state = 'up'",
            (COMPLETE_MARK,),
        )
    if version < 3:  # noqa: PLR2004
        _add_events(db)
    db.execute(_BROUGHT_UP)
    db.execute("INSERT INTO brought_up SELECT name, deployed FROM deployments WHERE deployed IS NOT NULL")
    db.execute("ALTER TABLE deployments DROP COLUMN deployed")


def _add_events(db: sqlite3.Connection) -> None:
    """Migrate version 2 to version 3, in which lines of logs are events among others."""
    for statement in _EVENTS.split(";"):
        db.execute(statement)
    for table in ("deployments", "actions"):
        db.execute(f"ALTER TABLE {table} ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0")
    numbers: Counter[str] = Counter()
    for old in (_old_lines, _old_steps):
        db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", old(db, numbers))
    for table in ("lines", "steps"):
        db.execute(f"DROP TABLE {table}")


def _old_lines(db: sqlite3.Connection, numbers: Counter[str]) -> Iterator[tuple[object, ...]]:
    """Return the lines of version 2 as rows of the table ``events``; ``numbers`` counts them."""
    rows = db.execute(
        "SELECT deployment, lines.* FROM actions JOIN lines ON action = uuid ORDER BY actions.rowid, sequence"
    )
    for name, action, *values in rows:
        line = LogLine(**dict(zip(LogLine.__struct_fields__, values, strict=True)))
        numbers[name] += 1
        event = LineAdded(number=numbers[name], time=line.time, action=action, line=line)
        output = line.level == Level.OUTPUT
        yield name, event.number, action, line.sequence, output, msgspec.json.encode(event)


def _old_steps(db: sqlite3.Connection, numbers: Counter[str]) -> Iterator[tuple[object, ...]]:
    """Return the steps of version 2, as they were last."""
    rows = db.execute(
        "SELECT deployment, steps.* FROM actions JOIN steps ON action = uuid ORDER BY actions.rowid, number"
    )
    for name, action, number, *values in rows:
        step = Step(**dict(zip(Step.__struct_fields__, values, strict=True)))
        numbers[name] += 1
        kind = StepStarted if step.state == StepState.RUNNING else StepEnded
        event = kind(
            number=numbers[name], time=step.ended or step.started, action=action, id=number, step=step
        )
        yield name, event.number, action, -number, False, msgspec.json.encode(event)


def _add_owners(db: sqlite3.Connection) -> None:
    """Migrate version 1 to version 2, in which deployments have owners."""
    own = os.geteuid()
    db.execute(f"ALTER TABLE deployments ADD COLUMN owner_uid INTEGER NOT NULL DEFAULT {own}")
    db.execute("ALTER TABLE deployments ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE actions ADD COLUMN asked_by TEXT")
    latest = "(SELECT who FROM actions WHERE deployment = name ORDER BY rowid DESC LIMIT 1)"
    rows = db.execute(f"SELECT name, project_location, {latest} FROM deployments").fetchall()  # noqa: S608
    for name, folder, who in rows:
        uid = _owner(Path(folder), who, own)
        db.execute(
            "UPDATE deployments SET owner_uid = ?, owner = ? WHERE name = ?", (uid, login_name(uid), name)
        )


def _owner(folder: Path, who: str | None, own: int) -> int:
    """Return the owner of a deployment from a time when none was stored.

    This is the server's own user. If that is root, other users may have used its socket: then it is the
    owner of the folder, who controls its content anyway. Deployments that root worked with itself stay
    root's, because what root was allowed to bring up must not be refused later. ``who`` was not verified
    then; a false one can only take a deployment away from the user who sent it.
    """
    if own != 0 or (who or "").startswith("root@"):
        return own
    try:
        found = folder.lstat()
    except OSError:
        return own
    return found.st_uid
