"""Runs doit for the ``kvm-compose`` command: its runner for what is out of date, its commands for tasks."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmcompose.build.execute import Build
from kvmcompose.build.ledger import share_ledger
from kvmcompose.build.project import Plan, Project, ledger_path
from kvmcompose.build.worker_pool import MANY, Crew, batches
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.event import Finished, Listener, Started
from kvmcompose.core.plain import plain
from kvmcompose.effects.signals import on_signals

if TYPE_CHECKING:  # doit takes longer to import than a build with nothing to do takes altogether
    from kvmcompose.build.dodo import TaskDict


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
                _run(build, plan, jobs=jobs, keep_going=keep_going)
            complete = True
        finally:
            if not complete:
                build.sweep()
            build.end(plan, complete=complete)
            untried = max(0, pending - build.made - build.removed - build.failed)
            listener(Finished(build.made, build.removed, build.kept, build.failed, untried))
        return build.failed == 0


def _run(build: Build, plan: Plan, *, jobs: int | None, keep_going: bool) -> None:
    """Let doit run the tasks that are out of date: one each, or when there are many one per batch."""
    from kvmcompose.build.dodo import Session, group_task, task_name  # noqa: PLC0415 (see above)

    session = Session(build.project, build.listener)
    session.take(build, plan)
    work = batches([each for each in plan.decisions if not each.settled])
    if jobs is None:
        jobs = (os.cpu_count() or 1) if sum(len(batch.makings) for batch in work) >= MANY else 1
    steps = [step for step in plan.images if not step.settled]
    with Crew(build, work, jobs) as crew:
        tasks = [session.image_task(step) for step in steps]
        tasks += [session.batch_task(batch, steps=steps, crew=crew) for batch in work]
        tasks += [session.removal_task(each) for each in plan.stale if not each.settled]
        names = [task_name(task) for task in tasks]
        known = set(names)
        for task in tasks:  # what is up to date is no task in this run
            task["task_dep"] = [name for name in task.get("task_dep", ()) if name in known]
        tasks.append(group_task(names))
        arguments = ["run", *(["--continue"] if keep_going else []), "generate"]
        status = _doit(build.project, tasks, arguments, reporter="zero")
    if session.crash is not None:
        raise session.crash
    if status and not build.failed:
        raise KvmComposeError(f"doit ended with status {status}; what it said stands above")


def doit_command(project: Project, command: str, arguments: Sequence[str], *, clean_all: bool = False) -> int:
    """One of doit's own commands (list, info, forget, clean) over all tasks of a project."""
    from kvmcompose.build.dodo import Session, task_name  # noqa: PLC0415 (see above)

    session = Session(project, lambda _event: None, clean_all=clean_all)
    tasks = list(session.all_tasks())
    known = {name for task in tasks for name in (task["basename"], task_name(task))}
    unknown = [name for name in arguments if name not in known] if command == "info" else []
    if unknown:  # the one of doit's commands that does not look
        hint = "kvm-compose list --all shows all tasks"
        raise InputError([project.problem(f"there is no task {name!r}", hint) for name in unknown])
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained):
        status = _doit(project, tasks, [command, *arguments])
    sys.stderr.write(plain(complained.getvalue(), lines=True))
    for line in said.getvalue().splitlines(keepends=True):
        if " - executing 'Python:" not in line:  # how doit announces what we then say in words
            sys.stdout.write(plain(line, lines=True))
    return status


def clean(project: Project, names: Sequence[str], *, dry_run: bool, force: bool) -> int:
    """Let doit clean; when everything goes, so do links to images and files of guests long gone."""
    from kvmcompose.build.dodo import clean_file  # noqa: PLC0415 (see above)

    with nullcontext() if dry_run else project.locked(None):
        arguments = [*(["--dry-run"] if dry_run else []), *project.tasks_named(names)]
        status = doit_command(project, "clean", arguments, clean_all=force)
        if names:
            return status
        records = project.records(write=False)
        for path in records:
            if path not in project.artefacts:
                clean_file(project, path, records, dryrun=dry_run, force=force)
        if not dry_run:
            _tidy(project.folder / "artefacts")
    return status


def _tidy(folder: Path) -> None:
    """Remove what only makes sense beside artefacts: links to images nobody lies on, then empty folders."""
    images = folder / "images"
    if not any(
        {".img", ".qcow2"} & set(entry.suffixes) for entry in folder.glob("*")
    ):  # also those kept as .orig
        for link in images.glob("*"):
            if link.is_symlink():
                link.unlink()
    for entry in (images, folder):
        with suppress(OSError):  # not empty, or not there
            entry.rmdir()


def _doit(project: Project, tasks: list[TaskDict], arguments: list[str], *, reporter: str = "console") -> int:
    from doit.cmd_base import TaskLoader2  # noqa: PLC0415 (see above)
    from doit.cmd_run import Run  # noqa: PLC0415 (see above)
    from doit.doit_cmd import DoitMain  # noqa: PLC0415 (see above)
    from doit.loader import generate_tasks  # noqa: PLC0415 (see above)
    from doit.plugin import PluginDict  # noqa: PLC0415 (see above)
    from doit.reporter import ZeroReporter  # noqa: PLC0415 (see above)

    from kvmcompose.build.doit_store import LedgerStore  # noqa: PLC0415 (only doit needs it)

    class Loader(TaskLoader2):  # type: ignore[misc] # doit has no types
        """Hands doit the tasks that there are already."""

        def load_doit_config(self) -> dict[str, Any]:
            return {
                "dep_file": str(ledger_path(project.folder)),
                "backend": "kvm-compose",
                "default_tasks": ["generate"],
                "par_type": "thread",
                "reporter": reporter,
                "verbosity": 2,
            }

        def load_tasks(self, cmd: Any, pos_args: Any) -> Any:  # noqa: ARG002 (doit calls by keyword)
            return generate_tasks("testbed", (task for task in tasks))

    class OurReporter(ZeroReporter):  # type: ignore[misc] # doit has no types
        def runtime_error(self, msg: str) -> None:
            super().runtime_error(plain(msg, lines=True))

    class OurRun(Run):  # type: ignore[misc] # doit has no types
        """Knows no plug-ins: doit would look through all packages that are installed, for each kind."""

        name = "run"

        def get_reporters(self) -> dict[str, Any]:
            return self._choice("reporter", {"zero": OurReporter})

        def get_backends(self) -> dict[str, Any]:
            return self._choice("backend", {"kvm-compose": LedgerStore})

        def _choice(self, option: str, classes: dict[str, Any]) -> dict[str, Any]:
            self.cmdparser[option].choices = {name: each.desc for name, each in classes.items()}
            return classes

    class Main(DoitMain):  # type: ignore[misc] # doit has no types
        BIN_NAME = "kvm-compose"

        def get_cmds(self) -> Any:
            if arguments[0] != OurRun.name:
                return super().get_cmds()
            commands = PluginDict()
            commands[OurRun.name] = OurRun
            return commands

    share_ledger(ledger_path(project.folder), project.ledger)
    # no configuration files: a pyproject.toml in the current folder is somebody else's
    backend = {"BACKEND": {"kvm-compose": "kvmcompose.build.doit_store:LedgerStore"}}
    main = Main(Loader(), config_filenames=(), extra_config=backend)
    status: int | None = main.run(arguments)
    return status or 0  # some of its commands give nothing back when all is well


def _terminable() -> AbstractContextManager[None]:
    """SIGTERM (what CI systems send) ends the block like Ctrl-C, so that it can put things in order."""
    ours = os.getpid()

    def interrupt() -> None:
        if os.getpid() != ours:
            os._exit(1)  # a worker that has only just been forked; see ``crew``
        raise KeyboardInterrupt

    return on_signals(interrupt, signal.SIGTERM)
