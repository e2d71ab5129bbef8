"""The server's database: deployments, their actions and what belongs to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import uuid4

import msgspec

from kvmcompose.core.commands import ActionCommand, Reconnect, command_name, spoken
from kvmcompose.core.condition import condition
from kvmcompose.core.deployment import Action, ActionState, Deployment, Fault, Level, NewDeployment, Phase
from kvmcompose.core.deployment_event import ActionEnded, ActionStarted
from kvmcompose.server.clock import now
from kvmcompose.server.database import open_database
from kvmcompose.server.event_tables import EventTables
from kvmcompose.server.people import Person, this_user

#: How many actions of a deployment are kept: the latest ones.
HISTORY = 200
#: How many of these a server may have begun itself: a guest that restarts all the time drops no others.
RECONNECT_HISTORY = 20
#: Deployments, each with its last action but those that ran beside others.
_DEPLOYMENTS = """
SELECT name, project_location, deployments.state, failed_command, last_action_uuid, owner,
    command, options, actions.state AS ended_as
FROM deployments LEFT JOIN actions ON uuid = last_action_uuid"""
#: Kind of a mark: the digest of the seed that a guest was last started with. It is true as long as its disk.
SEED_MARK = "seed"
#: What the kind of a mark begins with that describes a guest at a snapshot; its name follows.
SNAPSHOT_MARK = "snapshot:"
#: Kind of a mark: the address that DHCP assigned last to a guest.
ADDRESS_MARK = "address"


class Store(EventTables):
    """The server's database. ``path`` None keeps it in RAM."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, and create it if necessary. Raises StoreError."""
        super().__init__(open_database(path))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- deployments

    def deployments(self) -> list[Deployment]:
        """All deployments, by name."""
        return [_deployment(row) for row in self._db.execute(f"{_DEPLOYMENTS} ORDER BY name")]

    def deployment(self, name: str) -> Deployment | None:
        """Return a deployment, None when there is none of that name."""
        row = self._db.execute(f"{_DEPLOYMENTS} WHERE name = ?", (name,)).fetchone()
        return _deployment(row) if row else None

    def put_deployment(self, new: NewDeployment, owner: Person | None = None) -> Deployment:
        """Add a deployment of ``owner`` (None: the server's user), or change the folder of a known one."""
        owner = owner or this_user()
        self._db.execute(
            "INSERT INTO deployments (name, project_location, state, owner_uid, owner, dropped)"
            " VALUES (?, ?, ?, ?, ?, (SELECT number FROM removed))"
            " ON CONFLICT (name) DO UPDATE SET project_location = excluded.project_location",
            (new.name, new.project_location, Phase.DOWN, owner.uid, owner.name),
        )
        found = self.deployment(new.name)
        assert found is not None  # noqa: S101 (it was just put there)
        self.all_deployments.wake_soon()
        return found

    def owner(self, name: str) -> tuple[int, str] | None:
        """Return the user ID and name of a deployment's owner; None when there is no such deployment."""
        row = self._db.execute("SELECT owner_uid, owner FROM deployments WHERE name = ?", (name,)).fetchone()
        return tuple(row) if row else None

    def set_phase(self, name: str, phase: Phase, failed_command: str | None = None) -> None:
        """Set the phase of a deployment."""
        with self._changing(name):
            self._set_phase(name, phase, failed_command)

    def _set_phase(
        self, name: str, phase: Phase, failed_command: str | None, action: str | None = None
    ) -> None:
        before = self.deployment(name)
        self._db.execute(
            "UPDATE deployments SET state = ?, failed_command = ? WHERE name = ?",
            (phase, failed_command, name),
        )
        after = self.deployment(name)
        if after is not None and after != before:
            self._publish_phase(after, action)

    def remove_deployment(self, name: str) -> None:
        """Remove a deployment and its history."""
        with self._db.transaction():
            self._db.execute("UPDATE removed SET number = max(number, ?)", (self.last_number(name),))
            self._db.execute("DELETE FROM deployments WHERE name = ?", (name,))
        self._forget(name)

    def deployed(self, name: str) -> bytes | None:
        """Return what was brought up last, as the orchestrator stored it; None when nothing is up."""
        row = self._db.execute("SELECT document FROM brought_up WHERE deployment = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_deployed(self, name: str, document: bytes | None) -> None:
        """Store what is about to be brought up; None when nothing is up any more."""
        if document is None:
            self._db.execute("DELETE FROM brought_up WHERE deployment = ?", (name,))
        else:
            self._db.insert("brought_up", replace=True, deployment=name, document=document)

    # -- pictures of the topology

    def places(self, name: str, kind: str) -> bytes | None:
        """Return where everything was drawn last in a kind of picture, None if it never was."""
        row = self._db.execute(
            "SELECT document FROM places WHERE deployment = ? AND kind = ?", (name, kind)
        ).fetchone()
        return row[0] if row else None

    def put_places(self, name: str, kind: str, document: bytes) -> None:
        """Store where everything is drawn."""
        self._db.insert("places", replace=True, deployment=name, kind=kind, document=document)

    # -- actions

    def begin_action(
        self,
        name: str,
        command: ActionCommand,
        who: str | None,
        *,
        exclusive: bool,
        asked_by: str | None = None,
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
        with self._changing(name):
            self._db.insert(
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
            self._publish_action(ActionStarted, action)
            if exclusive:
                self._db.execute(
                    "UPDATE deployments SET last_action_uuid = ? WHERE name = ?", (action.uuid, name)
                )
                self._set_phase(name, Phase.RUNNING, None, action.uuid)
            self._drop_actions(name)
            if isinstance(command, Reconnect):
                self._drop_actions(name, RECONNECT_HISTORY, "AND command = 'reconnect'")
        return action

    def _drop_actions(self, name: str, count: int = HISTORY, which: str = "") -> None:
        """Drop all actions, or all of ``which``, but the latest, with their logs."""
        old = (  # `which` is one of two texts
            f"deployment = ? {which} AND state != 'running' AND rowid NOT IN"  # noqa: S608
            f" (SELECT rowid FROM actions WHERE deployment = ? {which} ORDER BY rowid DESC LIMIT ?)"
        )
        values = (name, name, count)
        rows = self._db.execute(f"SELECT uuid FROM actions WHERE {old}", values)  # noqa: S608
        for (uuid,) in rows.fetchall():
            last = self._db.execute(
                "SELECT max(number) FROM events WHERE action = ? AND deployment = ?", (uuid, name)
            ).fetchone()[0]
            self._note_dropped(name, last or 0)
        self._db.execute(f"DELETE FROM actions WHERE {old}", values)  # noqa: S608

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
        name = self._log(uuid).deployment
        with self._changing(name):
            self._db.execute(
                "UPDATE actions SET state = ?, ended = ?, faults = ?, refused = ?, exit_status = ?"
                " WHERE uuid = ?",
                (state, now(), msgspec.json.encode(faults), refused, exit_status, uuid),
            )
            if phase is not None:
                self._set_phase(name, *phase, uuid)
            ended = self.action(uuid)
            assert ended is not None  # noqa: S101 (it has a log)
            self._publish_action(ActionEnded, ended)
        self._logs.pop(uuid, None)

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
            phase = (Phase.FAILED, spoken(action.command, action.options)) if was_in_charge else None
            self._cancel_steps(action.uuid)
            self.end_action(action.uuid, ActionState.INTERRUPTED, faults=[fault], phase=phase)
        return found

    # -- snapshots of guests that are off: what libvirt forgets with the domain

    def keep_snapshots(self, name: str, guest: str, snapshots: Sequence[tuple[str, str]]) -> None:
        """Store a guest's snapshots, as (name, XML), the oldest first."""
        with self._db.transaction():
            self._db.execute("DELETE FROM snapshots WHERE deployment = ? AND guest = ?", (name, guest))
            self._db.executemany(
                "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?)",
                [(name, guest, each, number, xml) for number, (each, xml) in enumerate(snapshots)],
            )

    def set_intents(self, name: str, intents: Mapping[str, str]) -> None:
        """Remember what guests were asked to be, by what their names on hosts derive from."""
        with self._db.transaction():
            self._db.execute("DELETE FROM marks WHERE deployment = ? AND kind = 'intent'", (name,))
            for guest, state in intents.items():
                self._db.insert("marks", deployment=name, kind="intent", guest=guest, digest=state)

    def put_mark(self, name: str, kind: str, guest: str, digest: str | None) -> None:
        """Remember what has run in a guest; None: nothing is known of it any more."""
        if digest is None:
            self._db.execute(
                "DELETE FROM marks WHERE deployment = ? AND kind = ? AND guest = ?", (name, kind, guest)
            )
        else:
            self._db.insert("marks", replace=True, deployment=name, kind=kind, guest=guest, digest=digest)

    def forget_marks(self, name: str, guest: str | None = None) -> None:
        """Forget what has run in a guest, or in all of them; not what is as old as its disk."""
        which = "deployment = ? AND kind NOT IN ('intent', ?) AND kind NOT GLOB ?"
        values = (name, SEED_MARK, f"{SNAPSHOT_MARK}*")
        if guest is None:
            self._db.execute(f"DELETE FROM marks WHERE {which}", values)  # noqa: S608
        else:
            self._db.execute(f"DELETE FROM marks WHERE {which} AND guest = ?", (*values, guest))  # noqa: S608

    def forget_snapshots(self, name: str, guest: str) -> None:
        """Forget the snapshots of a guest, whose disk is a new one."""
        self.keep_snapshots(name, guest, [])
        self._db.execute(
            "DELETE FROM marks WHERE deployment = ? AND kind GLOB ? AND guest = ?",
            (name, f"{SNAPSHOT_MARK}*", guest),
        )

    def mark(self, name: str, kind: str, guest: str) -> str | None:
        """Return the digest of what has run in a guest, None if that is not known."""
        row = self._db.execute(
            "SELECT digest FROM marks WHERE deployment = ? AND kind = ? AND guest = ?", (name, kind, guest)
        ).fetchone()
        return row[0] if row else None

    def in_one(self) -> AbstractContextManager[None]:
        """Store all that a block does in one transaction: each takes a write to disk."""
        return self._db.transaction()

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
    options = msgspec.json.decode(row["options"] or b"{}")
    word = condition(
        Phase(row["state"]), row["failed_command"], spoken(row["command"] or "", options), row["ended_as"]
    )
    return msgspec.convert({**dict(row), "condition": word}, Deployment)


def _action(row: sqlite3.Row) -> Action:
    decoded = {
        "options": msgspec.json.decode(row["options"]),
        "faults": msgspec.json.decode(row["faults"]),
        "refused": bool(row["refused"]),
    }
    return msgspec.convert({**dict(row), **decoded}, Action)
