"""One action, from the asking to its end: who watches is told what happens, and signals stop it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from kvmcompose.core.deployment import Action, Command, LogLine, Step
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.signals import on_signals

if TYPE_CHECKING:
    from kvmcompose.client.remote import RemoteServer

#: Seconds between two looks at an action's steps; more where a look takes long.
_LOOK_SECONDS = 0.4
_SHARE_OF_LOOKING = 0.05
#: How long a last look may take, in seconds; a server that hangs must not keep who wants to leave.
_LEAVE_SECONDS = 1.0

_STOPPING = "cancelling; press Ctrl-C again to leave it to the server"


class Watcher(Protocol):
    """Who is told about an action. Methods may be called from several threads."""

    #: Whether it is told about steps, too.
    wants_steps: bool

    def line(self, line: LogLine) -> None:
        """A line of its log."""

    def steps(self, ended: Sequence[Step], running: Sequence[Step]) -> None:
        """The steps that have ended since it was told last, and those that run."""

    def notice(self, text: str) -> None:
        """Something about the watching itself."""


def perform(server: RemoteServer, name: str, command: Command, watcher: Watcher) -> Action:
    """Ask for an action and watch it to its end; how it ended. Raises ServerError.

    SIGINT and SIGTERM cancel it, and go on watching until it has stopped; the second one raises
    KeyboardInterrupt and leaves the action to the server.
    """
    stopping = _Stopping(server, name, watcher)
    with on_signals(stopping, signal.SIGINT, signal.SIGTERM):
        uuid = server.act(name, command)
        stopping.begun(uuid)
        return watch(server, name, uuid, watcher)


def watch(server: RemoteServer, name: str, uuid: str, watcher: Watcher, *, after: int = 0) -> Action:
    """Tell of an action until its end, from the line after number ``after``; how it ended.

    Raises ServerError.
    """
    order = _Order(watcher)
    with _looking(server, name, uuid, order):
        before: LogLine | None = None
        for line in server.follow(name, uuid, after):
            if watcher.wants_steps and (before is None or line.stage != before.stage):
                order.know(server.steps(name, uuid))
            before = line
            order.line(line)
    if watcher.wants_steps:
        order.know(server.steps(name, uuid))
        order.tell_all()
    return server.action(name, uuid)


def replay(lines: Iterable[LogLine], steps: Sequence[Step], watcher: Watcher) -> None:
    """Tell of what an action has done so far: its lines, and the ends of its steps between them."""
    order = _Order(watcher)
    order.know(steps)
    for line in lines:
        order.line(line)
    order.tell_all()


class _Order:
    """Tells lines and the ends of steps, which come by ways of their own, in the order they happened."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.wants_steps = watcher.wants_steps
        self._guard = threading.RLock()
        self._told: set[tuple[str, str, str | None, str | None, str]] = set()
        self._ended: list[Step] = []
        self._running: list[Step] = []

    def know(self, steps: Sequence[Step]) -> None:
        """Take in how far the steps have come. Those that have ended are not told yet."""
        with self._guard:
            known = {_key(step) for step in self._ended} | self._told
            fresh = [step for step in steps if step.ended is not None and _key(step) not in known]
            self._ended = sorted([*self._ended, *fresh], key=lambda step: step.ended or "")
            self._running = [step for step in steps if step.ended is None]

    def line(self, line: LogLine) -> None:
        """Tell a line, and before it what had ended before it."""
        with self._guard:
            # a step ends after its own lines, which may be of the same millisecond
            due = [step for step in self._ended if (step.ended or "") <= line.time and step.name != line.step]
            if due:
                self._tell(due)
            self._watcher.line(line)

    def look(self, steps: Sequence[Step]) -> None:
        """Tell what has ended by the last look, as its lines have come since, and what runs now."""
        with self._guard:
            due = list(self._ended)
            self.know(steps)
            self._tell(due)

    def tell_all(self) -> None:
        """Nothing more will come."""
        with self._guard:
            self._tell(list(self._ended))

    def _tell(self, due: Sequence[Step]) -> None:
        self._told.update(map(_key, due))
        self._ended = [step for step in self._ended if _key(step) not in self._told]
        self._watcher.steps(due, self._running)


def _key(step: Step) -> tuple[str, str, str | None, str | None, str]:
    return step.stage, step.name, step.guest, step.host, step.started


class _Stopping:
    """What the first signal does: cancels the action, once its UUID is known."""

    def __init__(self, server: RemoteServer, name: str, watcher: Watcher) -> None:
        self._server = server
        self._name = name
        self._watcher = watcher
        self._uuid: str | None = None
        self._wanted = False

    def begun(self, uuid: str) -> None:
        """The action has this UUID."""
        self._uuid = uuid
        if self._wanted:
            self._start()

    def __call__(self) -> None:
        if self._wanted:
            raise KeyboardInterrupt
        self._wanted = True
        if self._uuid is not None:
            self._start()

    def _start(self) -> None:
        # a thread, as this is called by a signal handler, in the middle of whatever the main thread does
        threading.Thread(target=self._cancel, daemon=True).start()

    def _cancel(self) -> None:
        self._watcher.notice(_STOPPING)
        try:
            self._server.cancel(self._name, self._uuid or "")
        except KvmComposeError as error:
            self._watcher.notice(f"cannot cancel it: {error.message}")


@contextmanager
def _looking(server: RemoteServer, name: str, uuid: str, order: _Order) -> Iterator[None]:
    """Ask for the steps now and then while the block follows the lines."""
    ended = threading.Event()

    def look() -> None:
        pause = _LOOK_SECONDS
        while not ended.wait(pause):
            began = time.monotonic()
            with suppress(KvmComposeError):  # who follows the lines will say that the server is gone
                steps = server.steps(name, uuid)
                if not ended.is_set():
                    order.look(steps)
            pause = max(_LOOK_SECONDS, (time.monotonic() - began) / _SHARE_OF_LOOKING)

    thread = threading.Thread(target=look, daemon=True)
    if order.wants_steps:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if order.wants_steps:
            thread.join(_LEAVE_SECONDS)
