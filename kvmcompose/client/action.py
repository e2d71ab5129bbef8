"""Runs an action to its end: reports its lines and steps to a watcher, and cancels it on a signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from kvmcompose.client.errors import ServerError
from kvmcompose.core.deployment import Action, Command, LogLine, Step
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.signals import on_signals

if TYPE_CHECKING:
    from kvmcompose.client.remote import RemoteServer

#: Seconds between two requests for an action's steps; more if a request takes long.
_POLL_SECONDS = 0.4
_POLLING_SHARE = 0.05
#: The most actions that one client watches at a time: a server limits connections and actions per user.
_SIDE_BY_SIDE = 32
#: How long the last request may take, in seconds: a server that hangs must not keep the user waiting.
_LEAVE_SECONDS = 1.0

_STOPPING = "cancelling; press Ctrl-C again to leave it to the server"


class Watcher(Protocol):
    """Receives reports about an action. Methods may be called from several threads."""

    #: Whether steps are to be reported, too.
    wants_steps: bool

    def line(self, line: LogLine) -> None:
        """Receive a line of the log."""

    def steps(self, ended: Sequence[Step], running: Sequence[Step]) -> None:
        """Receive the steps that have ended since the last call, and those that are running."""

    def notice(self, text: str) -> None:
        """Receive a message of the client itself."""


def perform(
    server: RemoteServer, name: str, command: Command, watcher: Watcher, *, stdin: int | None = None
) -> Action:
    """Start an action, watch it to its end, and return how it ended. Raises ServerError.

    ``stdin`` is a file descriptor whose content is the input of an ``exec``.

    SIGINT or SIGTERM cancels it and waits until it has stopped; a second signal raises KeyboardInterrupt and
    leaves the action to the server.
    """
    stopping = _Stopping(server, name, watcher)
    with on_signals(stopping, signal.SIGINT, signal.SIGTERM):
        uuid = server.act(name, command)
        stopping.begun(uuid)
        if stdin is not None:
            server.send_input(name, uuid, stdin, stopping.failed)
        return watch(server, name, uuid, watcher)


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


def watch(server: RemoteServer, name: str, uuid: str, watcher: Watcher, *, after: int = 0) -> Action:
    """Report an action from the line after number ``after`` to its end, and return how it ended.

    Raises ServerError.
    """
    order = _Order(watcher)
    with _polling(server, name, uuid, order):
        before: LogLine | None = None
        for line in server.follow(name, uuid, after):
            if watcher.wants_steps and (before is None or line.stage != before.stage):
                order.know(server.steps(name, uuid))
            before = line
            order.line(line)
    if watcher.wants_steps:
        order.know(server.steps(name, uuid))
        order.report_all()
    return server.action(name, uuid)


def replay(lines: Iterable[LogLine], steps: Sequence[Step], watcher: Watcher) -> None:
    """Report what an action has done so far: its lines, and the ends of its steps in between."""
    order = _Order(watcher)
    order.know(steps)
    for line in lines:
        order.line(line)
    order.report_all()


class _Order:
    """Reports lines and the ends of steps, which arrive separately, in the order in which they happened."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.wants_steps = watcher.wants_steps
        self._guard = threading.RLock()
        self._reported: set[tuple[str, str, str | None, str | None, str]] = set()
        self._ended: list[Step] = []
        self._running: list[Step] = []

    def know(self, steps: Sequence[Step]) -> None:
        """Take note of the steps. Those that have ended are not reported yet."""
        with self._guard:
            known = {_key(step) for step in self._ended} | self._reported
            fresh = [step for step in steps if step.ended is not None and _key(step) not in known]
            self._ended = sorted([*self._ended, *fresh], key=lambda step: step.ended or "")
            self._running = [step for step in steps if step.ended is None]

    def line(self, line: LogLine) -> None:
        """Report a line, and first the steps that ended before it."""
        with self._guard:
            # a step ends after its own lines, which may be of the same millisecond
            due = [step for step in self._ended if (step.ended or "") <= line.time and step.name != line.step]
            if due:
                self._report(due)
            self._watcher.line(line)

    def update(self, steps: Sequence[Step]) -> None:
        """Report the steps that had ended at the last update, whose lines have arrived, and those running."""
        with self._guard:
            due = list(self._ended)
            self.know(steps)
            self._report(due)

    def report_all(self) -> None:
        """Report all steps that have ended."""
        with self._guard:
            self._report(list(self._ended))

    def _report(self, due: Sequence[Step]) -> None:
        self._reported.update(map(_key, due))
        self._ended = [step for step in self._ended if _key(step) not in self._reported]
        self._watcher.steps(due, self._running)


def _key(step: Step) -> tuple[str, str, str | None, str | None, str]:
    return step.stage, step.name, step.guest, step.host, step.started


class _Stopping:
    """The signal handler: cancels the action, as soon as its UUID is known."""

    def __init__(self, server: RemoteServer, name: str, watcher: Watcher, *, announce: bool = True) -> None:
        self._server = server
        self._name = name
        self._watcher = watcher
        self._announce = announce
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


@contextmanager
def _polling(server: RemoteServer, name: str, uuid: str, order: _Order) -> Iterator[None]:
    """Request the steps repeatedly while the block follows the lines."""
    ended = threading.Event()

    def poll() -> None:
        pause = _POLL_SECONDS
        while not ended.wait(pause):
            began = time.monotonic()
            with suppress(KvmComposeError):  # a lost server is reported where the lines are read
                steps = server.steps(name, uuid)
                if not ended.is_set():
                    order.update(steps)
            pause = max(_POLL_SECONDS, (time.monotonic() - began) / _POLLING_SHARE)

    thread = threading.Thread(target=poll, daemon=True)
    if order.wants_steps:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if order.wants_steps:
            thread.join(_LEAVE_SECONDS)
