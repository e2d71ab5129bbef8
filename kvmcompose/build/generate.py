"""``generate``: builds what is missing or changed."""

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
    """Build what is missing or changed. True when everything is as it should be.

    ``jobs`` is how many processes make artefacts at a time, None as many as seem worth it.
    Holds the project's lock meanwhile; see ``build_lock`` for ``waiting``. A termination signal ends the
    build like Ctrl-C: what was made stays noted.
    """
    with project.locked(waiting), _terminable():
        build = Build(project, listener)
        plan = build.begin(names)
        pending = sum(not step.settled for step in plan.images) + len(plan.pending)
        listener(Started(pending))
        complete = False
        try:
            if pending:
                # doit takes longer to import than a build with nothing to do takes altogether
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
    """SIGTERM (what CI systems send) ends the block like Ctrl-C, so that it can put things in order."""
    ours = os.getpid()

    def interrupt() -> None:
        if os.getpid() != ours:
            os._exit(1)  # a worker that has only just been forked; see ``worker_pool``
        raise KeyboardInterrupt

    return on_signals(interrupt, signal.SIGTERM)
