"""doit tasks that ask the testbed server: ``up``, ``down``, ``snapshot`` and ``status``.

They are never up to date, and nothing depends on them but what a user hangs on them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from doit.exceptions import TaskFailed

from kvmcompose.build.trust import asked_by, refuse_untrusted
from kvmcompose.client.action import perform
from kvmcompose.client.built_project import name_of
from kvmcompose.client.connect import connect
from kvmcompose.client.errors import ServerError
from kvmcompose.client.formatting import (
    duration,
    failure_text,
    fault_text,
    guest_state_text,
    is_hint,
    line_text,
    seconds_between,
    state_text,
    step_text,
)
from kvmcompose.core.commands import Command, Down, Snapshot, SnapshotVerb, Up
from kvmcompose.core.deployment import Action, Level, LogLine, NewDeployment, Phase, Step, StepState
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.plain import plain

TaskDict = dict[str, Any]

_NOT_FOUND = 404


class TestbedTasks:
    """A project as the server knows it. ``built`` is called when what ``up`` needs has been built."""

    __test__ = False  # not a test, whatever its name

    def __init__(
        self,
        name: str,
        folder: Path,
        built: Callable[[], None] = lambda: None,
        allow_paths: Sequence[str] = (),
    ) -> None:
        self._name = name
        self._folder = folder.resolve()
        self._built = built
        self._allow_paths = allow_paths

    def tasks(self, generate: str, *, down_at_end: bool) -> Iterator[TaskDict]:
        """The tasks. ``generate`` is the one that builds what ``up`` needs."""
        yield {
            **_asking("up", self.up, "bring the testbed up, building what is out of date"),
            "task_dep": [generate],
            **({"teardown": [self.take_down]} if down_at_end else {}),
            "params": [
                _flag("rerun_scripts", "run setup scripts that have run before"),
                _flag("reset_clones", "make new clones when their golden image has changed"),
                _flag("keep_going", "continue with the others when a guest fails"),
            ],
        }
        yield {
            **_asking("down", self.down, "take the testbed down"),
            "params": [
                _flag("purge", "remove the guests' disks: their data is lost"),
                {
                    "name": "timeout",
                    "long": "timeout",
                    "type": float,
                    "default": 60.0,
                    "help": "seconds that a guest may take to shut down",
                },
            ],
        }
        yield {
            **_asking("snapshot", self.snapshot, "create, restore or delete a snapshot: snapshot VERB NAME"),
            "params": [
                {"name": "guest", "long": "guest", "type": list, "default": [], "help": "only this guest"}
            ],
            "pos_arg": "words",
        }
        yield _asking("status", self.status, "show the testbed as it is now")

    def up(self, *, rerun_scripts: bool, reset_clones: bool, keep_going: bool) -> TaskFailed | None:
        """Bring the testbed up."""
        self._built()
        try:
            refuse_untrusted(asked_by(self._folder, self._allow_paths))
        except KvmComposeError as error:
            return failed(error)
        return self._perform(
            Up(rerun_scripts=rerun_scripts, reset_clones=reset_clones, keep_going=keep_going)
        )

    def down(self, *, purge: bool = False, timeout: float = 60.0) -> TaskFailed | None:
        """Take it down."""
        return self._perform(Down(purge=purge, timeout=timeout))

    def take_down(self) -> TaskFailed | None:
        """Take it down, unless it is: what ends a run of doit, whatever happened in it."""
        try:
            found = connect().deployment(self._name)
        except ServerError as error:
            return None if error.status == _NOT_FOUND else failed(error)
        return None if found.state is Phase.DOWN else self.down()

    def snapshot(self, *, guest: Sequence[str], words: Sequence[str]) -> TaskFailed | None:
        """Create, restore or delete a snapshot."""
        verbs = [verb.value for verb in SnapshotVerb]
        if len(words) != 2 or words[0] not in verbs:  # noqa: PLR2004 (a verb and a name)
            return TaskFailed(f"doit snapshot {'|'.join(verbs)} NAME")
        return self._perform(Snapshot(verb=SnapshotVerb(words[0]), name=words[1], guests=tuple(guest)))

    def status(self) -> TaskFailed | None:
        """Print how it is."""
        try:
            status = connect().status(self._name)
        except KvmComposeError as error:
            return failed(error)
        lines = [f"{self._name}: {state_text(status.deployment)}"]
        lines += [
            f"{each.name}  {each.host}  {guest_state_text(each)}  {each.address or '-'}"
            for each in status.guests
        ]
        lines += [f"differs: {each}" for each in status.differences]
        sys.stdout.write("".join(f"{plain(line)}\n" for line in lines))
        return None

    def _perform(self, command: Command) -> TaskFailed | None:
        try:
            server = connect()
            server.put(NewDeployment(self._name, str(self._folder)))  # nothing happens if it knows it
            return outcome(perform(server, self._name, command, StderrReport()))
        except KvmComposeError as error:
            return failed(error)


def testbed_in(folder: Path) -> TestbedTasks:
    """The testbed of a folder, without looking at its YAML."""
    return TestbedTasks(name_of(folder), folder)


class StderrReport:
    """Writes to stderr what an action does. doit itself reports which task runs, and how it ended."""

    wants_steps = True

    def __init__(self) -> None:
        self._guard = threading.Lock()

    def line(self, line: LogLine) -> None:
        """Write a line."""
        trouble = line.level in (Level.WARNING, Level.ERROR) and not is_hint(line)
        word = f"{line.level}: " if trouble else ""
        self.notice(f"{word}{line_text(line)}")

    def steps(self, ended: Sequence[Step], running: Collection[Step]) -> None:  # noqa: ARG002 (a log has no last line)
        """Write what has ended."""
        for step in ended:
            if step.state is not StepState.SKIPPED:
                took = duration(seconds_between(step.started, step.ended))
                self.notice(f"{step.state:9} {step.stage}: {step_text(step)}  ({took})")

    def notice(self, text: str) -> None:
        """Write something."""
        with self._guard:
            sys.stderr.write(f"{plain(text, lines=True)}\n")


def outcome(action: Action) -> TaskFailed | None:
    """Return how a task ended that was this action."""
    trouble = failure_text(action)
    if trouble is None:
        return None
    return TaskFailed(plain("\n".join([trouble, *map(fault_text, action.faults)]), lines=True))


def failed(error: KvmComposeError) -> TaskFailed:
    """Return how a task ended with this error."""
    said = f"{error.message}\nhint: {error.hint}" if error.hint else error.message
    return TaskFailed(plain(said, lines=True))


def _asking(name: str, act: Callable[..., TaskFailed | None], doc: str) -> TaskDict:
    return {
        "basename": name,
        "actions": [act],
        "uptodate": [False],
        "verbosity": 2,
        "io": {"capture": False},
        "doc": doc,
    }


def _flag(name: str, text: str) -> dict[str, Any]:
    option = name.replace("_", "-")
    return {"name": name, "long": option, "type": bool, "default": False, "help": text}
