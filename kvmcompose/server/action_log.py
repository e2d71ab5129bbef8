"""The log of an action: its steps and lines, stored in the database and followed by clients."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Self

import msgspec

from kvmcompose.core.deployment import ActionState, Fault, Level, LogLine, Step, StepState
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.plain import without_controls
from kvmcompose.core.probe import Probed
from kvmcompose.server.clock import now
from kvmcompose.server.database import StoreError
from kvmcompose.server.store import Store

#: How many stored lines a follower fetches at a time.
_CHUNK = 1000
#: Longer lines are split, so that a program that never ends its line cannot fill memory. In characters.
LONGEST_LINE = 16384
#: How much output of programs is kept per action, in lines and bytes: the newest. Dropped in batches.
OUTPUT_LINES, OUTPUT_BYTES = 100_000, 16 << 20
_BATCH_LINES, _BATCH_BYTES = 2000, 1 << 20
#: What a line takes besides its text, in bytes.
_LINE_OVERHEAD = 120


class StepFailedError(KvmComposeError):
    """A step failed, and the fault has been recorded."""


class Refusals(RefusedError):  # noqa: N818 (several reasons for one refusal)
    """Several reasons for one refusal, each with a hint."""

    def __init__(self, reasons: list[tuple[str, str | None]]) -> None:
        super().__init__("; ".join(message for message, _hint in reasons))
        self.reasons = reasons


class ActionLog:
    """The log of one action."""

    def __init__(self, store: Store, uuid: str) -> None:
        self._store = store
        self.uuid = uuid
        self.faults: list[Fault] = []
        self._steps = 0
        self._news = asyncio.Event()
        self._output = _Quota()
        self.ended = False

    def say(
        self,
        text: str,
        level: Level = Level.INFO,
        *,
        stage: str | None = None,
        step: str | None = None,
        guest: str | None = None,
        host: str | None = None,
    ) -> None:
        """Add a line, or several if the text has several."""
        for line in text.splitlines() or [""]:
            # colours are dropped; characters that reverse or hide text become visible
            clean = without_controls(line.encode(errors="replace").decode())  # no surrogates
            for start in range(0, len(clean) or 1, LONGEST_LINE):
                part = clean[start : start + LONGEST_LINE]
                added = self._store.append(
                    self.uuid, level, part, stage=stage, step=step, guest=guest, host=host
                )
                if level is Level.OUTPUT:
                    self._count(added)
        self._wake()

    def _count(self, line: LogLine) -> None:
        """Count a line of output, and drop the oldest ones over the quota."""
        over = self._output.add(line)
        if over is None:
            return
        first = not self._output.cut
        self._output.cut += self._store.drop_output(self.uuid, up_to=over)
        if first:
            self.say(
                f"the output exceeds {OUTPUT_LINES} lines or {OUTPUT_BYTES >> 20} MiB:"
                " only the newest lines are kept",
                Level.WARNING,
            )

    def fault(self, fault: Fault, *, stage: str | None = None) -> None:
        """Record a fault."""
        self.faults.append(fault)
        where = {"stage": stage, "step": fault.step, "guest": fault.guest, "host": fault.host}
        with suppress(StoreError):  # with a full disk, the fault is reported in the action's result only
            self.say(fault.message, Level.ERROR, **where)
            if fault.hint:
                self.say(f"hint: {fault.hint}", Level.ERROR, **where)

    def step(
        self, stage: str, name: str, *, guest: str | None = None, host: str | None = None
    ) -> RunningStep:
        """Return a step as a context manager: done when the block ends, failed when the block raises."""
        self._steps += 1
        return RunningStep(self, self._steps, stage, name, guest, host)

    def put_step(self, number: int, step: Step) -> None:
        """Store the state of a step."""
        self._store.put_step(self.uuid, number, step)

    def resource(
        self, verb: str, kind: str, name: str, *, host: str | None = None, guest: str | None = None
    ) -> None:
        """Report that a resource was changed: ``create``, ``ovs-bridge``, its name on the host."""
        self._store.publish_resource(self.uuid, verb, kind, name, host=host, guest=guest)

    def guest(
        self, name: str, state: str, *, host: str, reason: str | None = None, address: str | None = None
    ) -> None:
        """Report the state of a guest, as in GuestStatus. Nothing is sent if that is known already."""
        action = self._store.action(self.uuid)
        if action is not None:
            self._store.publish_guest(
                action.deployment, name, state, host=host, reason=reason, address=address, action=self.uuid
            )

    def probed(self, answer: Probed) -> None:
        """Report the answer to a question."""
        clean = without_controls(answer.cause)
        self._store.publish_probe(self.uuid, msgspec.structs.replace(answer, cause=clean))

    def conclude(self) -> None:
        """Add the last line: how much of the output was dropped."""
        if self._output.cut:
            with suppress(StoreError):
                self.say(f"{self._output.cut} lines of output were dropped", Level.WARNING)

    def end(self) -> None:
        """Mark the log as complete."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    @property
    def news(self) -> asyncio.Event:
        """An event that is set as soon as there is something new."""
        return self._news


class _Quota:
    """Decides how much output of an action is kept: sequence numbers and sizes of its lines, by batch."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int, int]] = (
            deque()
        )  # (last sequence, lines, bytes), the oldest first
        self._lines = self._bytes = 0
        self._batch = (0, 0, 0)
        self.cut = 0

    def add(self, line: LogLine) -> int | None:
        """Count a line. Returns the sequence number up to which output has to be dropped, if any."""
        _, lines, size = self._batch
        self._batch = (line.sequence, lines + 1, size + len(line.text.encode()) + _LINE_OVERHEAD)
        if self._batch[1] < _BATCH_LINES and self._batch[2] < _BATCH_BYTES:
            return None
        self._batches.append(self._batch)
        self._lines += self._batch[1]
        self._bytes += self._batch[2]
        self._batch = (0, 0, 0)
        over = None
        while self._lines > OUTPUT_LINES or self._bytes > OUTPUT_BYTES:
            over, lines, size = self._batches.popleft()
            self._lines -= lines
            self._bytes -= size
        return over


class RunningStep:
    """A running step; see ``ActionLog.step``."""

    def __init__(
        self, log: ActionLog, number: int, stage: str, name: str, guest: str | None, host: str | None
    ) -> None:
        self._log = log
        self._number = number
        self._skipped = False
        self._noted = Step(
            name=name, stage=stage, state=StepState.RUNNING, started=now(), guest=guest, host=host
        )
        self.stage, self.name, self.guest, self.host = stage, name, guest, host

    def __enter__(self) -> Self:
        self._note(StepState.RUNNING)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._note(StepState.SKIPPED if self._skipped else StepState.DONE)
            return
        if not isinstance(error, Exception):  # cancelled
            self._note(StepState.CANCELLED)
            return
        self._note(StepState.FAILED)
        if isinstance(error, StepFailedError | Refusals):
            return
        if isinstance(error, KvmComposeError):
            self._fail(error.message, error.hint)
            raise StepFailedError(error.message, hint=error.hint) from error
        name = type(error).__name__
        self._fail(f"internal error: {name}: {error}", "please report it, with the server's log")

    def _fail(self, message: str, hint: str | None) -> None:
        fault = Fault(step=self.name, message=message, guest=self.guest, host=self.host, hint=hint)
        self._log.fault(fault, stage=self.stage)

    def _note(self, state: StepState) -> None:
        ended = None if state is StepState.RUNNING else now()
        noted = self._noted
        self._log.put_step(
            self._number,
            Step(
                name=noted.name,
                stage=noted.stage,
                state=state,
                started=noted.started,
                ended=ended,
                guest=noted.guest,
                host=noted.host,
            ),
        )

    def skip(self) -> None:
        """Mark the step as skipped: there was nothing to do."""
        self._skipped = True

    def say(self, text: str, level: Level = Level.INFO) -> None:
        """Add a line about this step."""
        self._log.say(text, level, stage=self.stage, step=self.name, guest=self.guest, host=self.host)

    @property
    def output(self) -> Callable[[str], None]:
        """A callback that adds lines that a program printed."""
        return lambda text: self.say(text, Level.OUTPUT)


async def follow(store: Store, log: ActionLog | None, uuid: str, after: int) -> AsyncIterator[LogLine]:
    """Yield an action's log from the line after number ``after``: stored lines, then new ones.

    ``log`` is None for an action that has ended. Ends with the action. All lines are read from the store,
    so a slow reader slows nobody down.
    """
    while True:
        # both are read before the store, so that nothing can be missed in between
        ended = log is None or log.ended
        news = log.news if log is not None else None
        lines = store.lines(uuid, after=after, limit=_CHUNK)
        for line in lines:
            after = line.sequence
            yield line
        if lines:
            continue
        if ended or news is None:
            return
        await news.wait()


def ending(faults: list[Fault], *, cancelled: bool) -> ActionState:
    """Return the final state of an action with these faults."""
    if cancelled:
        return ActionState.CANCELLED
    return ActionState.FAILED if faults else ActionState.SUCCEEDED
