"""Prints a build: a line per artefact, a progress bar if there are many, or JSON lines."""

from __future__ import annotations

import contextlib
import sys
import threading
from contextlib import ExitStack
from typing import TextIO

import msgspec

from kvmcompose.core.event import Done, Event, Failed, Finished, Noticed, Started, Transferred
from kvmcompose.monitor.console import Console, Progress

#: With more artefacts than this a terminal shows a progress bar instead of lines.
_MANY = 60

_COLOURS = {
    "create": "green",
    "rebuild": "yellow",
    "grow": "green",
    "remove": "red",
    "keep customised": "blue",
    "left over": "yellow",
}


class BuildLines(contextlib.AbstractContextManager["BuildLines"]):
    """A listener that prints for people. Use it as a context manager, so that a progress bar is removed.

    ``data``: print to stdout, because the build is the result that was requested; otherwise to stderr.
    """

    def __init__(self, console: Console, *, data: bool = True) -> None:
        self._console = console
        self._stream = sys.stdout if data else sys.stderr
        self._write = console.data if data else console.talk
        self._bars = ExitStack()
        self._bar: Progress | None = None
        self._transfers: dict[str, Progress] = {}
        self._done = 0
        self._total = 0
        self._guard = threading.Lock()

    def __exit__(self, *_exception: object) -> None:
        self._bars.close()

    def __call__(self, event: Event) -> None:
        """Print an event."""
        with self._guard:
            match event:
                case Started(total=total):
                    self._total = total
                    if self._console.on_terminal and total > _MANY:
                        self._bar = self._bars.enter_context(
                            self._console.progress("building", unit="artefacts")
                        )
                case Done():
                    self._show_done(event)
                case Failed(error=error, task=task):
                    hint = f"\n    hint: {error.hint}" if error.hint else ""
                    self._console.error(f"{task}: {error.message}{hint}")
                case Noticed(message=message):
                    self._console.warn(message)
                case Transferred(label=label, done=done, total=size):
                    if label not in self._transfers:
                        self._transfers[label] = self._bars.enter_context(self._console.progress(label))
                    self._transfers[label](done, size)
                case Finished():
                    self._show_finished(event)

    def _show_done(self, event: Done) -> None:
        quiet = event.action in ("keep customised", "left over")
        if not quiet:
            self._done += 1
        if self._bar is not None and not quiet:
            self._bar(self._done, self._total)
            if self._console.verbosity <= 0:
                return
        if self._console.verbosity < 0:
            return
        self._write(line(self._console, event.action, event.path, event.reasons, self._stream))

    def _show_finished(self, event: Finished) -> None:
        parts = []
        if event.made:
            parts.append(f"{event.made} made")
        if event.removed:
            parts.append(f"{event.removed} removed")
        if event.kept:
            parts.append(f"{event.kept} up to date")
        if event.failed:
            parts.append(f"{event.failed} failed")
        if event.untried:
            parts.append(f"{event.untried} skipped" + (" because of that" if event.failed else ""))
        self._console.say(", ".join(parts) or "nothing to do")


def line(
    console: Console,
    action: str,
    path: str,
    reasons: tuple[str, ...],
    stream: TextIO | None = None,
    *,
    most: int = 1,
) -> str:
    """Return ``rebuild  artefacts/x.xml  (why)``. Only with ``-v`` it has more than ``most`` reasons."""
    word = console.paint(f"{action:8}", _COLOURS.get(action, "bold"), stream)
    if not reasons or reasons == ("new",):
        return f"{word} {path}"
    if console.verbosity > 0 or len(reasons) <= most:
        why = "; ".join(reasons)
    else:
        why = f"{'; '.join(reasons[:most])}; and {len(reasons) - most} more"
    return f"{word} {path}  ({why})"


class BuildJson:
    """A listener that writes JSON lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event) -> None:
        """Write an event."""
        kind = type(event).__name__.lower()
        if isinstance(event, Failed):
            body = {"task": event.task, "message": event.error.message, "hint": event.error.hint}
        else:
            body = msgspec.to_builtins(event)
        self._console.json_line({"event": kind, **body})
