"""What an action tells while it runs: steps and lines, kept in the store and passed on to who listens."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Self

from kvmcompose.core.deployment import ActionState, Fault, Level, LogLine, Step, StepState
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.plain import plain
from kvmcompose.server.store import Store, StoreError, now

#: Lines that are fetched at a time for a listener that replays.
_CHUNK = 1000
#: Longer lines are several ones, so that a program that never ends its line fills no memory. In characters.
LONGEST_LINE = 16384
#: How much output of programs is kept of one action, in lines and bytes: the newest. Dropped in batches.
OUTPUT_LINES, OUTPUT_BYTES = 100_000, 16 << 20
_BATCH_LINES, _BATCH_BYTES = 2000, 1 << 20
#: What a line takes beside its text, in bytes.
_LINE_OVERHEAD = 120
#: Control characters would act on the terminal of who reads the log; tabs are harmless.
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)


class StepFailedError(KvmComposeError):
    """A step failed, and was noted as a fault."""


class Refusals(RefusedError):  # noqa: N818 (several reasons for one refusal)
    """Several reasons why nothing was done, each with a hint."""

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
        """Add a line (several, where the text has several)."""
        for line in text.splitlines() or [""]:
            # colours say nothing in a log; what reverses or hides text is shown
            clean = plain(_CONTROL.sub("", line).encode(errors="replace").decode())  # what is no text is '?'
            for start in range(0, len(clean) or 1, LONGEST_LINE):
                part = clean[start : start + LONGEST_LINE]
                added = self._store.append(
                    self.uuid, level, part, stage=stage, step=step, guest=guest, host=host
                )
                if level is Level.OUTPUT:
                    self._count(added)
        self._wake()

    def _count(self, line: LogLine) -> None:
        """Of what programs print the newest is kept, within the quota."""
        over = self._output.add(line)
        if over is None:
            return
        first = not self._output.cut
        self._output.cut += self._store.drop_output(self.uuid, up_to=over)
        if first:
            self.say(
                f"this action prints more than {OUTPUT_LINES} lines or {OUTPUT_BYTES >> 20} MiB:"
                " the newest are kept, older ones are dropped",
                Level.WARNING,
            )

    def fault(self, fault: Fault, *, stage: str | None = None) -> None:
        """Note what went wrong."""
        self.faults.append(fault)
        where = {"stage": stage, "step": fault.step, "guest": fault.guest, "host": fault.host}
        with suppress(StoreError):  # a full disk is what went wrong: the fault is told all the same
            self.say(fault.message, Level.ERROR, **where)
            if fault.hint:
                self.say(f"hint: {fault.hint}", Level.ERROR, **where)

    def step(
        self, stage: str, name: str, *, guest: str | None = None, host: str | None = None
    ) -> RunningStep:
        """A step, to be entered: it ends done when the block does, failed when the block raises."""
        self._steps += 1
        return RunningStep(self, self._steps, stage, name, guest, host)

    def put_step(self, number: int, step: Step) -> None:
        """Note how far a step has come."""
        self._store.put_step(self.uuid, number, step)

    def end(self) -> None:
        """Nothing more will come."""
        if self._output.cut:
            with suppress(StoreError):
                self.say(f"{self._output.cut} lines of output were dropped", Level.WARNING)
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    @property
    def news(self) -> asyncio.Event:
        """Set when something new has come since this was asked for."""
        return self._news


class _Quota:
    """How much output of an action is kept: sequence numbers and sizes of its lines, by batch."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int, int]] = (
            deque()
        )  # (last sequence, lines, bytes), the oldest first
        self._lines = self._bytes = 0
        self._batch = (0, 0, 0)
        self.cut = 0

    def add(self, line: LogLine) -> int | None:
        """Count a line; the sequence number up to which output has to go, if any."""
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
    """A step that runs; see ``ActionLog.step``."""

    def __init__(
        self, journal: ActionLog, number: int, stage: str, name: str, guest: str | None, host: str | None
    ) -> None:
        self._journal = journal
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
        self._fail(
            f"a fault of kvm-compose itself: {name}: {error}", "please report it, with the server's log"
        )

    def _fail(self, message: str, hint: str | None) -> None:
        fault = Fault(step=self.name, message=message, guest=self.guest, host=self.host, hint=hint)
        self._journal.fault(fault, stage=self.stage)

    def _note(self, state: StepState) -> None:
        ended = None if state is StepState.RUNNING else now()
        noted = self._noted
        self._journal.put_step(
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
        """There was nothing to do."""
        self._skipped = True

    def say(self, text: str, level: Level = Level.INFO) -> None:
        """A line about this step."""
        self._journal.say(text, level, stage=self.stage, step=self.name, guest=self.guest, host=self.host)

    @property
    def output(self) -> Callable[[str], None]:
        """Takes lines that a program printed."""
        return lambda text: self.say(text, Level.OUTPUT)


async def follow(store: Store, journal: ActionLog | None, uuid: str, after: int) -> AsyncIterator[LogLine]:
    """An action's log from the line after number ``after``: first what there is, then as it comes.

    ``journal`` is None for an action that has ended. Ends with the action. Whoever reads slowly reads from
    the store, and slows nobody down.
    """
    while True:
        # both are looked at before the store, so that nothing can come in between unnoticed
        ended = journal is None or journal.ended
        news = journal.news if journal is not None else None
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
    """How an action with these faults has ended."""
    if cancelled:
        return ActionState.CANCELLED
    return ActionState.FAILED if faults else ActionState.SUCCEEDED
