"""The events of deployments in the server's database: stored in order, numbered, read from any number on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from kvmcompose.core.deployment import Action, Deployment, Level, LogLine, Step, StepState
from kvmcompose.core.deployment_event import (
    ActionEnded,
    ActionStarted,
    CurrentState,
    GuestChanged,
    LineAdded,
    PhaseChanged,
    ProbeAnswered,
    ResourceChanged,
    StepEnded,
    StepStarted,
    StoredEvent,
)
from kvmcompose.core.probe import Probed
from kvmcompose.server.clock import now
from kvmcompose.server.database import ServerDatabase
from kvmcompose.server.event_channel import Channel

#: How many events of a deployment that belong to no action are kept: the latest. Dropped in batches.
LOOSE_EVENTS, _LOOSE_BATCH = 10_000, 500
#: How much a reader gets at a time, in events and bytes.
_CHUNK_EVENTS, _CHUNK_BYTES = 1000, 1 << 18
#: The state of a guest that the testbed no longer has.
REMOVED = "removed"

_decode_line = msgspec.json.Decoder(LineAdded).decode
_decode_step = msgspec.json.Decoder(StepStarted | StepEnded).decode
_decode_guest = msgspec.json.Decoder(GuestChanged).decode


class _Logged(msgspec.Struct):
    """An action whose log grows: its deployment, the number of its last line, and its running steps."""

    deployment: str
    sequence: int
    steps: dict[int, StepStarted] = {}


class EventTables:
    """The part of the server's database with events, lines and steps; see ``Store``."""

    def __init__(self, db: ServerDatabase) -> None:
        self._db = db
        self._numbers: dict[str, int] = {}
        self._logs: dict[str, _Logged] = {}
        self._guests: dict[str, dict[str, GuestChanged]] = {}
        self._channels: dict[str, Channel] = {}
        #: Wakes those who follow the list of deployments.
        self.all_deployments = Channel()
        self._loose = 0

    # -- events

    def channel(self, name: str) -> Channel:
        """Return what wakes those who follow a deployment."""
        return self._channels.setdefault(name, Channel())

    def wake_all(self) -> None:
        """Wake all readers."""
        for channel in (self.all_deployments, *self._channels.values()):
            channel.wake()

    def last_number(self, name: str) -> int:
        """Return the number of the last event of a deployment."""
        if name not in self._numbers:
            row = self._db.execute("SELECT max(number) FROM events WHERE deployment = ?", (name,)).fetchone()
            self._numbers[name] = max(row[0] or 0, self.dropped(name))
        return self._numbers[name]

    def dropped(self, name: str, action: str | None = None) -> int:
        """Return the highest number of an event, of a deployment or an action, that is no longer kept."""
        table, key, value = ("actions", "uuid", action) if action else ("deployments", "name", name)
        row = self._db.execute(f"SELECT dropped FROM {table} WHERE {key} = ?", (value,)).fetchone()  # noqa: S608
        return int(row[0]) if row else 0

    def events(self, name: str, *, after: int, action: str | None = None) -> list[tuple[int, bytes]]:
        """Return numbers and JSON of events after number ``after``, in order, some of them: ask again."""
        where, values = ("AND action = ?", (action,)) if action else ("", ())
        rows = self._db.execute(
            f"SELECT number, document FROM events WHERE deployment = ? AND number > ? {where}"  # noqa: S608
            " ORDER BY number LIMIT ?",
            (name, after, *values, _CHUNK_EVENTS),
        )
        found: list[tuple[int, bytes]] = []
        size = 0
        for number, document in rows:
            found.append((number, document))
            size += len(document)
            if size >= _CHUNK_BYTES:
                break
        return found

    def current(self, deployment: Deployment, actions: Iterable[Action], number: int) -> CurrentState:
        """Return the state of a deployment with these running actions, for a reader at ``number``."""
        last = self.last_number(deployment.name)
        running = tuple(actions)
        steps = (event for action in running for event in self._log(action.uuid).steps.values())
        return CurrentState(
            number=number,
            time=now(),
            as_of=last,
            deployment=deployment,
            actions=running,
            steps=tuple(steps),
            guests=tuple(self.guests(deployment.name).values()),
        )

    def _publish(
        self,
        name: str,
        event: Callable[[int], StoredEvent],
        *,
        action: str | None,
        sequence: int | None = None,
        output: bool = False,
        change: bool = True,
    ) -> StoredEvent:
        """Store an event, which is made with its number, and wake those who follow the deployment."""
        number = self.last_number(name) + 1
        made = event(number)
        self._db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
            (name, number, action, sequence, output, msgspec.json.encode(made)),
        )
        self._numbers[name] = number
        if action is None:
            self._drop_loose(name)
        if name in self._channels:
            self._channels[name].wake_soon(change=change)
        return made

    def _drop_loose(self, name: str) -> None:
        """Drop the oldest events that belong to no action, now and then."""
        self._loose += 1
        if self._loose % _LOOSE_BATCH:
            return
        row = self._db.execute(
            "SELECT number FROM events WHERE action IS NULL AND deployment = ? ORDER BY number DESC"
            " LIMIT 1 OFFSET ?",
            (name, LOOSE_EVENTS),
        ).fetchone()
        if row is not None:
            self._db.execute(
                "DELETE FROM events WHERE action IS NULL AND deployment = ? AND number <= ?", (name, row[0])
            )
            self._note_dropped(name, row[0])

    def _note_dropped(self, name: str, number: int) -> None:
        self._db.execute("UPDATE deployments SET dropped = max(dropped, ?) WHERE name = ?", (number, name))

    @contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Do all that the block does, or nothing of it, and then go on with the numbers of before."""
        try:
            with self._db.transaction():
                yield
        except BaseException:
            self._numbers.pop(name, None)
            self._guests.pop(name, None)
            raise

    def _forget(self, name: str) -> None:
        """End the streams of a deployment that was removed."""
        self._numbers.pop(name, None)
        self._guests.pop(name, None)
        self._logs = {uuid: log for uuid, log in self._logs.items() if log.deployment != name}
        channel = self._channels.pop(name, None)
        if channel is not None:
            channel.closed = True
            channel.wake(change=True)
        self.all_deployments.wake_soon()

    # -- what the events are about

    def _publish_action(self, kind: type[ActionStarted | ActionEnded], action: Action) -> None:
        self._publish(
            action.deployment,
            lambda number: kind(number=number, time=now(), action=action),
            action=action.uuid,
        )

    def _publish_phase(self, deployment: Deployment, action: str | None) -> None:
        self._publish(
            deployment.name,
            lambda number: PhaseChanged(
                number=number,
                time=now(),
                state=deployment.state,
                failed_command=deployment.failed_command,
                action=action,
                condition=deployment.condition,
            ),
            action=action,
        )
        self.all_deployments.wake_soon()

    def publish_resource(
        self,
        uuid: str,
        verb: str,
        kind: str,
        name: str,
        *,
        host: str | None = None,
        guest: str | None = None,
    ) -> None:
        """Report that an action has changed a resource."""
        self._publish(
            self._log(uuid).deployment,
            lambda number: ResourceChanged(
                number=number,
                time=now(),
                action=uuid,
                verb=verb,
                kind=kind,
                name=name,
                host=host,
                guest=guest,
            ),
            action=uuid,
        )

    def publish_probe(self, uuid: str, answer: Probed) -> None:
        """Report the answer to a question that an action has asked."""
        self._publish(
            self._log(uuid).deployment,
            lambda number: ProbeAnswered(number=number, time=now(), action=uuid, answer=answer),
            action=uuid,
            change=False,
        )

    def guests(self, name: str) -> Mapping[str, GuestChanged]:
        """Return the last event of each guest of a deployment."""
        if name not in self._guests:
            query = "SELECT document FROM guests WHERE deployment = ? ORDER BY guest"
            found = [_decode_guest(row[0]) for row in self._db.execute(query, (name,))]
            self._guests[name] = {event.guest: event for event in found}
        return self._guests[name]

    def publish_guest(
        self,
        name: str,
        guest: str,
        state: str,
        *,
        host: str,
        address: str | None = None,
        reason: str | None = None,
        action: str | None = None,
    ) -> bool:
        """Report the state of a guest. Returns False, and stores nothing, if it is what was reported last."""
        before = self.guests(name).get(guest)
        if before is None and state == REMOVED:
            return False
        known = (before.state, before.host, before.address) if before is not None else None
        if known == (state, host, address) and (reason is None or (before and reason == before.reason)):
            return False

        def event(number: int) -> GuestChanged:
            return GuestChanged(
                number=number,
                time=now(),
                guest=guest,
                host=host,
                state=state,
                before=before.state if before is not None else None,
                reason=reason,
                address=address,
                action=action,
            )

        with self._changing(name):
            made = self._publish(name, event, action=action, change=False)
            assert isinstance(made, GuestChanged)  # noqa: S101 (it is what was just made)
            if state == REMOVED:
                self._db.execute("DELETE FROM guests WHERE deployment = ? AND guest = ?", (name, guest))
                del self._guests[name][guest]
            else:
                document = msgspec.json.encode(made)
                self._db.insert("guests", replace=True, deployment=name, guest=guest, document=document)
                self._guests[name][guest] = made
        return True

    # -- steps and lines

    def put_step(self, uuid: str, number: int, step: Step) -> None:
        """Report a step that runs, or has ended. ``number`` counts from 1 in each action."""
        log = self._log(uuid)
        kind = StepStarted if step.state is StepState.RUNNING else StepEnded
        made = self._publish(
            log.deployment,
            lambda at: kind(number=at, time=now(), action=uuid, id=number, step=step),
            action=uuid,
            sequence=-number,
            change=step.guest is not None,
        )
        if isinstance(made, StepStarted):
            log.steps[number] = made
        else:
            log.steps.pop(number, None)

    def steps(self, uuid: str) -> list[Step]:
        """Return an action's steps in the order they began."""
        return [event.step for event in self._last_of_steps(uuid)]

    def ended_steps(self, name: str, most: int) -> list[Step]:
        """Return steps of a deployment that have ended, the latest first; ``most`` limits what is read."""
        rows = self._db.execute(
            "SELECT document FROM events WHERE deployment = ? AND sequence < 0 ORDER BY number DESC LIMIT ?",
            (name, most),
        )
        found = (_decode_step(row[0]) for row in rows)
        return [event.step for event in found if isinstance(event, StepEnded)]

    def _last_of_steps(self, uuid: str) -> Iterable[StepStarted | StepEnded]:
        """Return the last event of each step of an action, in the order they began."""
        rows = self._db.execute(
            "SELECT document FROM events WHERE action = ? AND sequence < 0 ORDER BY sequence DESC, number",
            (uuid,),
        )
        found = (_decode_step(row[0]) for row in rows)
        return {event.id: event for event in found}.values()

    def _cancel_steps(self, uuid: str) -> None:
        """Mark steps that were running when the server died as cancelled."""
        for event in list(self._last_of_steps(uuid)):
            if isinstance(event, StepStarted):
                ended = msgspec.structs.replace(event.step, state=StepState.CANCELLED, ended=now())
                self.put_step(uuid, event.id, ended)

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
        log = self._log(uuid)
        line = LogLine(
            sequence=log.sequence + 1,
            time=now(),
            level=level,
            text=text,
            stage=stage,
            step=step,
            guest=guest,
            host=host,
        )
        self._publish(
            log.deployment,
            lambda number: LineAdded(number=number, time=line.time, action=uuid, line=line),
            action=uuid,
            sequence=line.sequence,
            output=level is Level.OUTPUT,
            change=False,
        )
        log.sequence = line.sequence
        return line

    def _log(self, uuid: str) -> _Logged:
        if uuid not in self._logs:
            row = self._db.execute(
                "SELECT deployment, (SELECT max(sequence) FROM events WHERE action = uuid AND sequence > 0)"
                " FROM actions WHERE uuid = ?",
                (uuid,),
            ).fetchone()
            self._logs[uuid] = _Logged(row[0], row[1] or 0)
        return self._logs[uuid]

    def drop_output(self, uuid: str, *, up_to: int) -> int:
        """Remove the output of programs from an action's log, up to line ``up_to``; return how many lines."""
        name = self._log(uuid).deployment
        which = "action = ? AND sequence <= ? AND output"
        last = self._db.execute(f"SELECT max(number) FROM events WHERE {which}", (uuid, up_to)).fetchone()[0]  # noqa: S608
        if last is None:
            return 0
        with self._db.transaction():
            done = self._db.execute(f"DELETE FROM events WHERE {which}", (uuid, up_to))  # noqa: S608
            self._db.execute("UPDATE actions SET dropped = max(dropped, ?) WHERE uuid = ?", (last, uuid))
            self._note_dropped(name, last)
        return done.rowcount

    def lines(self, uuid: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Return an action's log from the line after number ``after``, at most ``limit`` lines."""
        rows = self._db.execute(
            "SELECT document FROM events WHERE action = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (uuid, after, limit),
        )
        return [_decode_line(row[0]).line for row in rows]
