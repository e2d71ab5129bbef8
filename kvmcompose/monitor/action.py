"""Prints an action of a testbed server: its steps and its log, for people or as JSON lines."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TextIO

from kvmcompose.client.formatting import (
    clock,
    duration,
    failure_text,
    is_hint,
    line_text,
    seconds_between,
    step_text,
)
from kvmcompose.core.commands import spoken
from kvmcompose.core.deployment import Action, ActionState, Level, LogLine, Step, StepState
from kvmcompose.monitor.console import Console

_WORDS = {
    StepState.DONE: ("done", "green"),
    StepState.SKIPPED: ("skipped", "dim"),
    StepState.FAILED: ("failed", "red"),
    StepState.CANCELLED: ("stopped", "yellow"),
}

#: How much a stage has to do, by its name: a number, and of what.
Totals = Mapping[str, tuple[int, str]]

#: Assigned in turn to the names of guests in front of their output.
_GUEST_COLOURS = ("blue", "cyan", "magenta", "green", "yellow")


class ActionLines:
    """Prints an action for people: headings of stages, steps as they end, lines as they come.

    To stderr, or with ``data`` to stdout. On a terminal the last line shows the current step.
    ``only`` restricts lines and steps to some guests.
    """

    wants_steps = True

    def __init__(
        self,
        console: Console,
        *,
        data: bool = False,
        timestamps: bool = False,
        only: Collection[str] | None = None,
        totals: Totals | None = None,
    ) -> None:
        self._console = console
        self._stream: TextIO = sys.stdout if data else sys.stderr
        self._write = console.data if data else console.talk
        self._timestamps = timestamps
        self._only = only
        self._totals = totals or {}
        #: How many steps of each stage have ended, and of which guests.
        self._steps_done: Counter[str] = Counter()
        self._guests_done: defaultdict[str, set[str | None]] = defaultdict(set)
        self._guard = threading.RLock()
        self._stage: str | None = None
        self._colours: dict[str, str] = {}
        self._hosts: set[str] = set()

    def line(self, line: LogLine) -> None:
        """Print a line; with ``--quiet`` only warnings and errors."""
        if self._only is not None and line.guest not in self._only:
            return
        text = line_text(line)
        with self._guard:
            if line.level is Level.INFO:
                host = self._host(line.host, line.guest)
                text = f"{host}: {text}" if host and line.guest is None else text
            if line.level is Level.ERROR and not is_hint(line):
                text = f"{self._paint('error:', 'red')} {text}"
            elif line.level is Level.WARNING:
                text = f"{self._paint('warning:', 'yellow')} {text}"
            elif self._console.verbosity < 0 and not is_hint(line):
                return
            elif line.level is Level.OUTPUT and line.guest is not None:
                text = f"{self._paint(f'{line.guest} |', self._colour(line.guest))} {line.text}".rstrip()
            self._show(line.stage, line.time, text)

    def steps(self, ended: Sequence[Step], running: Collection[Step]) -> None:
        """Print the steps that have ended and, on a terminal, those that are running."""
        if self._console.verbosity < 0:
            return
        with self._guard:
            for step in ended:
                self._steps_done[step.stage] += 1
                self._guests_done[step.stage].add(step.guest)
                self._show_step(step)
            if self._console.on_terminal:
                self._console.status(_running_text(running, self._progress(running)))

    def _progress(self, running: Collection[Step]) -> str:
        """Return how much of the stage that runs is done: ``12 of 40 guests``; '' if that is unknown."""
        stage = min(running, key=lambda step: step.started).stage if running else ""
        total, unit = self._totals.get(stage, (0, ""))
        if not total:
            return ""
        if unit == "guest":  # of several steps
            done = self._guests_done[stage]
            count = len(done) - len(done & {step.guest for step in running})
        else:
            count = self._steps_done[stage]
        return f"{min(count, total)} of {total} {unit}{'' if total == 1 else 's'}"

    def notice(self, text: str) -> None:
        """Something about the watching itself."""
        with self._guard:
            self._console.say(text)

    def ended(self, action: Action, guests: int | None = None) -> None:
        """Print the last line: how the action ended, how long it took, for how many guests."""
        with self._guard:
            self._console.status("")
            took = duration(seconds_between(action.started, action.ended))
            trouble = failure_text(action)
            if trouble is None:
                what = "done" if guests is None else f"{guests} guest{'' if guests == 1 else 's'}"
                self._console.say(f"{spoken(action.command, action.options)}: {what} in {took}")
                return
            reported = action.refused or not action.faults  # the reasons are right above
            hint = "" if reported else "\n    hint: kvm-compose errors shows what went wrong"
            ran = not action.refused and action.state is not ActionState.INTERRUPTED
            self._console.error(f"{trouble}{f' after {took}' if ran else ''}{hint}")

    def _show_step(self, step: Step) -> None:
        if self._only is not None and step.guest not in self._only:
            return
        if step.state is StepState.SKIPPED and self._console.verbosity < 1:
            return
        word, colour = _WORDS[step.state]
        took = duration(seconds_between(step.started, step.ended))
        host = self._host(step.host, step.guest)
        where = f" on {host}" if host else ""
        text = f"{self._paint(f'{word:8}', colour)} {step_text(step)}{where}  ({took})"
        self._show(step.stage, step.ended or step.started, text)

    def _show(self, stage: str | None, time: str, text: str) -> None:
        if stage is not None and stage != self._stage:
            self._stage = stage
            if self._console.verbosity >= 0:
                self._write(self._paint(f"{stage}:", "bold"))
        self._write(f"{clock(time)} {text}" if self._timestamps else text)
        self._stream.flush()

    def _host(self, host: str | None, guest: str | None) -> str | None:
        """Return the host if it is to be printed: with ``--verbose``, or if there are several hosts."""
        if host is not None:
            self._hosts.add(host)
        shown = self._console.verbosity > 0 or (guest is None and len(self._hosts) > 1)
        return host if shown else None

    def _colour(self, guest: str) -> str:
        return self._colours.setdefault(guest, _GUEST_COLOURS[len(self._colours) % len(_GUEST_COLOURS)])

    def _paint(self, text: str, colour: str) -> str:
        return self._console.paint(text, colour, self._stream)


class ActionJson:
    """Prints an action as JSON: a LogLine per line, and the action itself as the last line."""

    wants_steps = False

    def __init__(self, console: Console) -> None:
        self._console = console
        self._guard = threading.RLock()

    def line(self, line: LogLine) -> None:
        """Write a line."""
        with self._guard:
            self._console.json_line(line)

    def steps(self, ended: Sequence[Step], running: Collection[Step]) -> None:
        """Steps are not asked for."""

    def notice(self, text: str) -> None:
        """Something about the watching itself."""
        self._console.say(text)

    def ended(self, action: Action, guests: int | None = None) -> None:  # noqa: ARG002 (as for ActionLines)
        """Write the action."""
        self._console.json_line(action)


class ActionOutput:
    """Prints the output of a command to stdout, errors to stderr.

    With the ``names`` of several guests, each line of output starts with its guest's name.
    """

    wants_steps = False

    def __init__(self, console: Console, names: Sequence[str] = ()) -> None:
        self._console = console
        self._guard = threading.RLock()
        colours = itertools.cycle(_GUEST_COLOURS)
        self._labels = {name: console.paint(f"{name} |", next(colours)) for name in names}

    def line(self, line: LogLine) -> None:
        """Print a line of output, or an error."""
        with self._guard:
            self._print(line, self._labels.get(line.guest or ""))

    def _print(self, line: LogLine, label: str | None) -> None:
        match line.level:
            case Level.OUTPUT:
                self._console.verbatim(line.text if label is None else f"{label} {line.text}".rstrip())
                sys.stdout.flush()
            case Level.INFO:
                self._console.detail(line.text)
            case Level.WARNING:
                self._console.warn(line.text if label is None else line_text(line))
            case Level.ERROR if is_hint(line):
                self._console.talk(line_text(line))
            case Level.ERROR:
                self._console.error(line.text if label is None else line_text(line))

    def steps(self, ended: Sequence[Step], running: Collection[Step]) -> None:
        """Steps are not asked for."""

    def notice(self, text: str) -> None:
        """Something about the watching itself."""
        self._console.say(text)


def _running_text(running: Collection[Step], progress: str = "") -> str:
    """Return a line about the running steps: stage, progress, the oldest step, how many more; '' if none."""
    if not running:
        return ""
    oldest = min(running, key=lambda step: step.started)
    several = f" and {len(running) - 1} more" if len(running) > 1 else ""
    took = duration(seconds_between(oldest.started), whole=True)
    stage = f"{oldest.stage}: {progress}" if progress else oldest.stage
    return f"{stage}: {step_text(oldest)}{several}, {took}"
