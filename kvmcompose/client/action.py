"""One action, from the asking to its end: who watches is told what happens, and signals stop it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

from kvmcompose.client.server import Server
from kvmcompose.core.deployment import Action, Command, LogLine, Step
from kvmcompose.core.errors import KvmComposeError

#: Seconds between two looks at an action's steps; more where a look takes long.
_LOOK_SECONDS = 0.4
_SHARE_OF_LOOKING = 0.05

_STOPPING = "cancelling; press Ctrl-C again to leave it to the server"


class Watcher(Protocol):
    """Who is told about an action. Methods may be called from several threads."""

    #: Whether it is told about steps, too.
    wants_steps: bool

    def line(self, line: LogLine) -> None:
        """A line of its log."""

    def steps(self, steps: Sequence[Step]) -> None:
        """All its steps, as far as they have come."""

    def notice(self, text: str) -> None:
        """Something about the watching itself."""


def perform(server: Server, name: str, command: Command, watcher: Watcher) -> Action:
    """Ask for an action and watch it to its end; how it ended. Raises ServerError.

    SIGINT and SIGTERM cancel it, and go on watching until it has stopped; the second one raises
    KeyboardInterrupt and leaves the action to the server.
    """
    stopping = _Stopping(server, name, watcher)
    with _signals(stopping):
        uuid = server.act(name, command)
        stopping.begun(uuid)
        return watch(server, name, uuid, watcher)


def watch(server: Server, name: str, uuid: str, watcher: Watcher, *, after: int = 0) -> Action:
    """Tell of an action until its end, from the line after number ``after``; how it ended.

    Raises ServerError.
    """
    with _looking(server, name, uuid, watcher):
        before: LogLine | None = None
        for line in server.follow(name, uuid, after):
            if watcher.wants_steps and (before is None or line.stage != before.stage):
                watcher.steps(server.steps(name, uuid))  # what ended before is told before
            before = line
            watcher.line(line)
    if watcher.wants_steps:
        watcher.steps(server.steps(name, uuid))
    return server.action(name, uuid)


def replay(lines: Iterable[LogLine], steps: Sequence[Step], watcher: Watcher) -> None:
    """Tell of what an action has done so far: its lines, and the ends of its steps between them."""
    ended = sorted((step for step in steps if step.ended is not None), key=lambda step: step.ended or "")
    told: list[Step] = []
    for line in lines:
        while ended and (ended[0].ended or "") <= line.time:
            told.append(ended.pop(0))
            watcher.steps(told)
        watcher.line(line)
    watcher.steps([*told, *ended])


class _Stopping:
    """What the first signal does: cancels the action, once its UUID is known."""

    def __init__(self, server: Server, name: str, watcher: Watcher) -> None:
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
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _looking(server: Server, name: str, uuid: str, watcher: Watcher) -> Iterator[None]:
    """Tell the watcher about steps while the block follows the lines."""
    ended = threading.Event()

    def look() -> None:
        pause = _LOOK_SECONDS
        while not ended.wait(pause):
            began = time.monotonic()
            with suppress(KvmComposeError):  # who follows the lines will say that the server is gone
                watcher.steps(server.steps(name, uuid))
            pause = max(_LOOK_SECONDS, (time.monotonic() - began) / _SHARE_OF_LOOKING)

    thread = threading.Thread(target=look, daemon=True)
    if watcher.wants_steps:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if watcher.wants_steps:
            thread.join()
