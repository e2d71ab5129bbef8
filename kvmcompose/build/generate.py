"""``generate``: build what is missing or out of date."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from kvmcompose.build.execute import Build
from kvmcompose.build.project import Project
from kvmcompose.core.event import Finished, Listener, Started
from kvmcompose.effects.signals import on_signals


def generate(
    project: Project,
    names: Sequence[str],
    *,
    listener: Listener,
    waiting: Callable[[str], None] | None,
    jobs: int | None = None,
    keep_going: bool = False,
) -> bool:
    """Build what is missing or out of date. Returns False when an artefact failed.

    ``jobs`` is the number of processes that make artefacts, None to choose one by the amount of work. Holds
    the project's lock; ``waiting`` is explained at ``build_lock``. A build that had to wait reads the project
    again, as it may have been edited; it raises InputError if that is not valid. A termination signal ends
    the build like Ctrl-C: finished artefacts stay recorded.
    """
    waited = False

    def wait(holder: str) -> None:
        nonlocal waited
        waited = True
        if waiting is not None:
            waiting(holder)

    with project.locked(wait if waiting is not None else None), _terminable():
        if waited:
            project = project.read_again()
        build = Build(project, listener)
        plan = build.begin(names)
        pending = sum(not step.settled for step in plan.images) + len(plan.pending)
        listener(Started(pending))
        complete = False
        try:
            if pending:
                # importing doit takes longer than a whole build with nothing to do
                from kvmcompose.build.doit_runner import run_pending  # noqa: PLC0415

                run_pending(build, plan, jobs=jobs, keep_going=keep_going)
            complete = True
        finally:
            if not complete:
                build.sweep()
            build.end(plan, complete=complete)
            untried = max(0, pending - build.made - build.removed - build.failed)
            listener(Finished(build.made, build.removed, build.kept, build.failed, untried))
        return build.failed == 0


def _terminable() -> AbstractContextManager[None]:
    """Let SIGTERM (which CI systems send) end the block like Ctrl-C, so that it can clean up."""
    ours = os.getpid()

    def interrupt() -> None:
        if os.getpid() != ours:
            os._exit(1)  # in a worker that has just been forked; see ``worker_pool``
        raise KeyboardInterrupt

    return on_signals(interrupt, signal.SIGTERM)
