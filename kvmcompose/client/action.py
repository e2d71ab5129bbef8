"""Runs an action to its end: reports its lines and steps to a watcher, and cancels it on a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, Self

from kvmcompose.client.errors import ServerError
from kvmcompose.core.commands import Command
from kvmcompose.core.deployment import Action, LogLine, Step
from kvmcompose.core.deployment_event import (
    ActionEnded,
    CurrentState,
    LineAdded,
    ProbeAnswered,
    StepEnded,
    StepStarted,
)
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.probe import Probed
from kvmcompose.effects.signals import on_signals

if TYPE_CHECKING:
    from kvmcompose.client.remote import RemoteServer

#: How often running steps are reported again, in seconds, as they take longer.
_TICK_SECONDS = 0.5
#: How long the end waits for the last report, in seconds: a terminal may be stopped.
_LEAVE_SECONDS = 1.0
#: The most actions that one client watches at a time: a server limits connections and actions per user.
_SIDE_BY_SIDE = 32

_STOPPING = "cancelling; press Ctrl-C again to leave it to the server"
#: Called with each answer of a ``test``.
OnAnswer = Callable[[Probed], None]


class Watcher(Protocol):
    """Receives reports about an action. Methods may be called from several threads."""

    #: Whether steps are to be reported, too, and running ones repeatedly.
    wants_steps: bool

    def line(self, line: LogLine) -> None:
        """Receive a line of the log."""

    def steps(self, ended: Sequence[Step], running: Collection[Step]) -> None:
        """Receive the steps that have ended since the last call, and those that are running."""

    def notice(self, text: str) -> None:
        """Receive a message of the client itself."""


def perform(
    server: RemoteServer,
    name: str,
    command: Command,
    watcher: Watcher,
    *,
    stdin: int | None = None,
    on_answer: OnAnswer | None = None,
    interrupted: threading.Event | None = None,
) -> Action:
    """Start an action, watch it to its end, and return how it ended. Raises ServerError.

    ``stdin`` is a file descriptor whose content is the input of an ``exec``. ``on_answer`` receives the
    answers of a ``test``.

    SIGINT or SIGTERM cancels it and waits until it has stopped; a second signal raises KeyboardInterrupt and
    leaves the action to the server. ``interrupted`` is set by the first: where that came too late, the
    action has succeeded.
    """
    stopping = _Stopping(server, name, watcher, interrupted=interrupted)
    with on_signals(stopping, signal.SIGINT, signal.SIGTERM):
        uuid = server.act(name, command)
        stopping.begun(uuid)
        if stdin is not None:
            server.send_input(name, uuid, stdin, stopping.failed)
        return watch(server, name, uuid, watcher, on_answer=on_answer)


def perform_together(
    server: RemoteServer, name: str, commands: Sequence[Command], watcher: Watcher
) -> list[Action | None]:
    """Start several actions side by side, watch them to their ends, and return how each ended.

    None for one that was not started any more after a signal, which cancels all as in ``perform``. Raises
    ServerError.
    """
    stoppings = [_Stopping(server, name, watcher, announce=False) for _ in commands]
    ended: list[Action | None] = [None] * len(commands)
    errors: list[KvmComposeError] = []
    waiting = iter(range(len(commands)))
    guard = threading.Lock()

    def work() -> None:
        while True:
            with guard:
                number = next(waiting, None)
            if number is None or errors or stoppings[number].wanted:
                return
            try:
                uuid = server.act(name, commands[number])
                stoppings[number].begun(uuid)
                ended[number] = watch(server, name, uuid, watcher)
            except KvmComposeError as error:
                errors.append(error)

    def stop() -> None:
        for each in stoppings:
            each()
        threading.Thread(target=watcher.notice, args=(_STOPPING,), daemon=True).start()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_SIDE_BY_SIDE, len(commands)))]
    with on_signals(stop, signal.SIGINT, signal.SIGTERM):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return ended


def watch(
    server: RemoteServer,
    name: str,
    uuid: str,
    watcher: Watcher,
    *,
    after: int = 0,
    on_answer: OnAnswer | None = None,
) -> Action:
    """Report an action to its end, its log from the line after number ``after``; return how it ended.

    Raises ServerError.
    """
    with _Steps(watcher) as steps:
        for event in server.events(name, action=uuid, after=0):
            match event:
                case LineAdded(line=line) if line.sequence > after:
                    watcher.line(line)
                case StepStarted():
                    steps.started(event)
                case StepEnded():
                    steps.ended(event)
                case ProbeAnswered(answer=answer) if on_answer is not None:
                    on_answer(answer)
                case CurrentState():
                    steps.replace(event.steps)
                case ActionEnded(action=action):
                    return action
    return server.action(name, uuid)  # of a version that had no events


class _Steps:
    """Reports steps as they start and end and, in a thread, how long the running ones take."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._running: dict[int, Step] = {}
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        if self._watcher.wants_steps:
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._watcher.wants_steps:
            self._thread.join(_LEAVE_SECONDS)

    def started(self, event: StepStarted) -> None:
        """Report a step that runs."""
        with self._guard:
            self._running[event.id] = event.step
            self._report()

    def ended(self, event: StepEnded) -> None:
        """Report the end of a step."""
        with self._guard:
            self._running.pop(event.id, None)
            self._report(event.step)

    def replace(self, steps: Iterable[StepStarted]) -> None:
        """Report what is running: events were missed."""
        with self._guard:
            self._running = {event.id: event.step for event in steps}
            self._report()

    def _report(self, *ended: Step) -> None:
        if self._watcher.wants_steps:
            self._watcher.steps(ended, self._running.values())

    def _tick(self) -> None:
        while not self._over.wait(_TICK_SECONDS):
            with self._guard:
                if self._running:
                    self._report()


def replay(lines: Iterable[LogLine], steps: Sequence[Step], watcher: Watcher) -> None:
    """Report what an action has done so far: its lines, and the ends of its steps in between.

    A step ends after its own lines, which may be of the same millisecond.
    """
    waiting = sorted((step for step in steps if step.ended is not None), key=lambda step: step.ended or "")
    running = [step for step in steps if step.ended is None]
    for line in lines:
        due = [step for step in waiting if (step.ended or "") <= line.time and step.name != line.step]
        if due:
            waiting = [step for step in waiting if step not in due]
            watcher.steps(due, running)
        watcher.line(line)
    watcher.steps(waiting, running)


class _Stopping:
    """The signal handler: cancels the action, as soon as its UUID is known."""

    def __init__(
        self,
        server: RemoteServer,
        name: str,
        watcher: Watcher,
        *,
        announce: bool = True,
        interrupted: threading.Event | None = None,
    ) -> None:
        self._server = server
        self._name = name
        self._watcher = watcher
        self._announce = announce
        self._interrupted = interrupted
        self._uuid: str | None = None
        self.wanted = False

    def begun(self, uuid: str) -> None:
        """Set the UUID of the action."""
        self._uuid = uuid
        if self.wanted:
            self._start()

    def failed(self, error: ServerError) -> None:
        """Cancel the action, as its input does not reach the server."""
        self._watcher.notice(error.message)
        self.wanted = True
        self._start()

    def __call__(self) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        if self._interrupted is not None:
            self._interrupted.set()
        if self._uuid is not None:
            self._start()

    def _start(self) -> None:
        # in a thread, because the signal handler interrupts the main thread anywhere
        threading.Thread(target=self._cancel, daemon=True).start()

    def _cancel(self) -> None:
        if self._announce:
            self._watcher.notice(_STOPPING)
        try:
            self._server.cancel(self._name, self._uuid or "")
        except KvmComposeError as error:
            self._watcher.notice(f"cannot cancel: {error.message}")
