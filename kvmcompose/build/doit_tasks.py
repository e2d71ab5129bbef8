"""The tasks of a project, as doit wants them: one for each artefact, image and file to remove."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from doit.exceptions import TaskFailed

from kvmcompose.build.base_images import image_of, image_task
from kvmcompose.build.clean import clean_file
from kvmcompose.build.decision import Decision, Making
from kvmcompose.build.doit_store import attempted, ours
from kvmcompose.build.execute import Build
from kvmcompose.build.overview import GROUP, GROUP_DOC, groups
from kvmcompose.build.project import ImageStep, Plan, Project
from kvmcompose.build.worker_pool import Batch, WorkerPool
from kvmcompose.core.artefact import Artefact
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.event import Event, Failed, Listener
from kvmcompose.core.plain import plain

TaskDict = dict[str, Any]

#: Tasks that make many artefacts at once; doit keeps no record of them.
BATCH = "batch"


class UpToDateCheck:
    """Tells doit whether a task is up to date; as text, why it is not."""

    def __init__(self, decision: Decision | ImageStep) -> None:
        self._decision = decision

    def __call__(self) -> bool:
        return self._decision.settled

    def __str__(self) -> str:
        return "; ".join(self._decision.reasons) or "the ledger of kvm-compose"

    __repr__ = __str__


class CleanAction:
    """Removes an artefact, unless the user or a guest has changed it since it was built."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, path: str, dryrun: bool) -> None:
        self._session.clean(path, dryrun=dryrun)

    def __str__(self) -> str:
        return " clean-up of kvm-compose"  # doit shows this, without its first character

    __repr__ = __str__


class Session:
    """A project's tasks in one run of doit. The build begins, and locks, when the first task acts."""

    def __init__(self, project: Project, listener: Listener, *, clean_all: bool = False) -> None:
        self.project = project
        self._listener = listener
        self._errors: dict[str, KvmComposeError] = {}
        self.crash: Exception | None = None
        self._clean_all = clean_all
        self._process = os.getpid()
        self._lock = ExitStack()
        self._refusal: KvmComposeError | None = None
        self.build = Build(project, self._hear)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Failed):
            self._errors[event.task] = event.error
        self._listener(event)

    def take(self, build: Build, plan: Plan) -> None:
        """Use a build that has already begun and holds the lock."""
        self.build = build
        build.listener = self._hear
        self.begun = plan

    @cached_property
    def plan(self) -> Plan:
        """Return the plan at the time when the tasks are loaded."""
        return self.project.plan()

    @cached_property
    def begun(self) -> Plan:
        """Return the plan at the time when the first task runs, under the lock.

        Raises KvmComposeError, also if the project was edited while another build was waited for.
        """
        try:
            alone = os.getpid() == self._process
            if alone:
                self._take_lock()
            return self.build.begin(alone=alone)
        except BaseException:
            self._lock.close()
            raise

    def _take_lock(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        waited = False

        def wait(holder: str) -> None:
            nonlocal waited
            waited = True
            _say_waiting(holder)

        self._lock.enter_context(self.project.locked(wait))
        if waited and self.project.is_edited():  # doit has its tasks already
            message = "the project was edited while this build waited for another one"
            self._refusal = KvmComposeError(message, hint="run doit again")
            raise self._refusal

    def release(self) -> None:
        """Release the lock, when everything has been made."""
        self._lock.close()

    def all_tasks(self) -> Iterator[TaskDict]:
        """Yield every task, up to date or not."""
        steps = self.plan.images
        names = [
            *(step.task for step in steps),
            *(making.task for making in self.plan.decisions),
            *(f"remove:{decision.path}" for decision in self.plan.stale),
        ]
        listed = list(groups(names))
        ours.update(names, (base for base, _ in listed), (GROUP,))
        # groups first: doit adds members to existing groups
        for base, doc in listed:
            yield {"basename": base, "name": None, "doc": doc}
        yield from map(self.image_task, steps)
        for making in self.plan.decisions:
            yield self.making_task(making, steps=steps)
        yield from map(self.removal_task, self.plan.stale)
        yield group_task(names)

    def image_task(self, step: ImageStep) -> TaskDict:
        """Return the task that fetches an image into the store and links to it."""
        return {
            "basename": "image",
            "name": step.task.removeprefix("image:"),
            "actions": [(self._act, [step.task, lambda: self.build.fetch(step)])],
            "uptodate": [UpToDateCheck(step)],
            "io": {"capture": False},
            "doc": f"disk image {step.task.removeprefix('image:')}",
        }

    def removal_task(self, decision: Decision) -> TaskDict:
        """Return the task that removes a file that is no longer wanted."""
        return {
            "basename": "remove",
            "name": decision.path,
            "actions": [(self._act, [decision.task, lambda: self.build.remove([decision])])],
            "uptodate": [UpToDateCheck(decision)],
            "io": {"capture": False},
            "doc": f"{decision.path} is no longer wanted",
        }

    def making_task(
        self, decision: Making, *, steps: Sequence[ImageStep], make: Callable[[], bool] | None = None
    ) -> TaskDict:
        """Return the task that makes one artefact, by ``make`` if that is given."""
        artefact = decision.artefact
        base, _, name = artefact.task.partition(":")
        after = [self.project.artefacts[path].task for path in artefact.after]
        return {
            "basename": base,
            **({"name": name} if name else {}),
            "actions": [
                (self._act, [artefact.task, make or (lambda: self.build.make([self._fresh(decision)]))])
            ],
            "targets": [os.path.relpath(self.project.folder / artefact.path)],
            "task_dep": [*after, *_fetching([artefact], steps)],
            "uptodate": [UpToDateCheck(decision)],
            "clean": [(CleanAction(self), [artefact.path])],
            "io": {"capture": False},
            "doc": artefact.summary,
        }

    def batch_task(self, batch: Batch, *, steps: Sequence[ImageStep], pool: WorkerPool) -> TaskDict:
        """Return the task that makes a batch of artefacts; a batch of one is the artefact's own task."""
        if len(batch.makings) == 1:
            return self.making_task(batch.makings[0], steps=steps, make=lambda: pool.make(batch))
        return {
            "basename": BATCH,
            "name": str(batch.number),
            "actions": [(self._act, [BATCH, lambda: pool.make(batch)])],
            "task_dep": [
                *_fetching((making.artefact for making in batch.makings), steps),
                *(f"{BATCH}:{number}" for number in pool.before(batch)),
            ],
            "io": {"capture": False},
        }

    def _fresh(self, decision: Making) -> Making:
        """The decision as of the beginning of the build, which may be later than the loading of tasks."""
        return self._begun_by_path.get(decision.path, decision)

    @cached_property
    def _begun_by_path(self) -> dict[str, Making]:
        return {each.path: each for each in self.begun.decisions}

    def _act(self, task: str, act: Callable[[], bool]) -> TaskFailed | None:
        attempted.add(task)
        try:
            self.begun  # noqa: B018 (takes the lock)
        except KvmComposeError as error:
            return _failed(error)
        try:
            if act():
                return None
        except Exception as fault:
            self.crash = fault  # an internal error, which doit would only report in its own words
            raise
        return _failed(self._errors.get(task) or KvmComposeError("see above"))

    def clean(self, path: str, *, dryrun: bool) -> None:
        """Remove an artefact; see ``clean_file``."""
        clean_file(
            self.project, path, self.project.records(write=False), dryrun=dryrun, force=self._clean_all
        )


def _failed(error: KvmComposeError) -> TaskFailed:
    said = f"{error.message}\nhint: {error.hint}" if error.hint else error.message
    return TaskFailed(plain(said, lines=True))


def _fetching(artefacts: Iterable[Artefact], steps: Sequence[ImageStep]) -> Iterator[str]:
    """Return the tasks that make the base images of artefacts available."""
    images = (image_of(artefact) for artefact in artefacts)
    names = {image_task(image) for image in images if image is not None}
    return (step.task for step in steps if image_task(step.image) in names)


def task_name(task: TaskDict) -> str:
    """Return the name that doit gives a task."""
    return f"{task['basename']}:{task['name']}" if "name" in task else str(task["basename"])


def group_task(names: Sequence[str]) -> TaskDict:
    """Return the task that depends on all others."""
    return {
        "basename": GROUP,
        "actions": None,
        "task_dep": list(names),
        "doc": GROUP_DOC,
    }


def _say_waiting(holder: str) -> None:
    sys.stderr.write(f"kvm-compose: waiting for another build in this project (process {plain(holder)})\n")
