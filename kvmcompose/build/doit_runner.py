"""Runs doit: its runner for what is out of date, its commands for all tasks of a project."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from doit.cmd_base import TaskLoader2
from doit.cmd_run import Run
from doit.doit_cmd import DoitMain
from doit.loader import generate_tasks
from doit.plugin import PluginDict
from doit.reporter import ZeroReporter

from kvmcompose.build.clean import clean_file, drop_left_overs, remove_leftovers
from kvmcompose.build.decide import is_behind_link
from kvmcompose.build.doit_store import LedgerStore, ours
from kvmcompose.build.doit_tasks import Session, TaskDict, group_task, task_name
from kvmcompose.build.execute import Build
from kvmcompose.build.ledger import share_ledger
from kvmcompose.build.overview import GROUP
from kvmcompose.build.project import Plan, Project, ledger_path
from kvmcompose.build.worker_pool import MANY, WorkerPool, batches
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.plain import plain


def run_pending(build: Build, plan: Plan, *, jobs: int | None, keep_going: bool) -> None:
    """Run the tasks that are out of date: one per artefact, or one per batch if there are many."""
    session = Session(build.project, build.listener)
    session.take(build, plan)
    work = batches([each for each in plan.decisions if not each.settled])
    if jobs is None:
        jobs = (os.cpu_count() or 1) if sum(len(batch.makings) for batch in work) >= MANY else 1
    steps = [step for step in plan.images if not step.settled]
    with WorkerPool(build, work, jobs) as pool:
        tasks = [session.image_task(step) for step in steps]
        tasks += [session.batch_task(batch, steps=steps, pool=pool) for batch in work]
        tasks += [session.removal_task(each) for each in plan.stale if not each.settled]
        names = [task_name(task) for task in tasks]
        known = set(names)
        ours.update(names, (GROUP,))
        for task in tasks:  # what is up to date is no task in this run
            task["task_dep"] = [name for name in task.get("task_dep", ()) if name in known]
        tasks.append(group_task(names))
        arguments = ["run", *(["--continue"] if keep_going else []), GROUP]
        status = _doit(build.project, tasks, arguments, reporter="zero")
    if session.crash is not None:
        raise session.crash
    if status and not build.failed:
        raise KvmComposeError(f"doit exited with status {status}; see its output above")


def doit_command(project: Project, command: str, arguments: Sequence[str], *, clean_all: bool = False) -> int:
    """Run one of doit's commands (list, info, forget, clean) on all tasks of a project."""
    session = Session(project, lambda _event: None, clean_all=clean_all)
    tasks = list(session.all_tasks())
    known = {name for task in tasks for name in (task["basename"], task_name(task))}
    unknown = [name for name in arguments if name not in known] if command == "info" else []
    if unknown:  # the only command of doit that does not check names
        hint = "kvm-compose list --all shows all tasks"
        raise InputError([project.problem(f"there is no task {name!r}", hint) for name in unknown])
    said, complained = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(complained):
        status = _doit(project, tasks, [command, *arguments])
    sys.stderr.write(plain(complained.getvalue(), lines=True))
    for line in said.getvalue().splitlines(keepends=True):
        if " - executing 'Python:" not in line:  # doit announces what our action then reports
            sys.stdout.write(plain(line, lines=True))
    return status


def clean(project: Project, names: Sequence[str], *, dry_run: bool, force: bool) -> int:
    """Remove artefacts; without names also links to images, and files that are no longer wanted."""
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
            remove_leftovers(
                project.folder / "artefacts", _folders((*records, *project.artefacts), project.folder)
            )
    return status


def clean_left_over(project: Project, names: Sequence[str], *, dry_run: bool) -> int:
    """Remove files of guests that the YAML no longer has, by name; see ``drop_left_overs``."""
    with nullcontext() if dry_run else project.locked(None):
        drop_left_overs(project, names, dry_run=dry_run)
    return 0


def _folders(paths: Iterable[str], root: Path) -> set[Path]:
    """Return the folders below ``artefacts`` that artefacts are in, with those on the way to them."""
    nearest = {Path(path.rpartition("/")[0]) for path in paths}
    found = {each for folder in nearest for each in (folder, *folder.parents) if len(each.parts) > 1}
    return {root / each for each in found if not is_behind_link(root, f"{each}/x")}


def _doit(project: Project, tasks: list[TaskDict], arguments: list[str], *, reporter: str = "console") -> int:

    class Loader(TaskLoader2):  # type: ignore[misc] # doit has no types
        """Gives doit tasks that exist already."""

        def load_doit_config(self) -> dict[str, Any]:
            return {
                "dep_file": str(ledger_path(project.folder)),
                "backend": "kvm-compose",
                "default_tasks": [GROUP],
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
        """Has no plug-ins: doit would search all installed packages, for each kind."""

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
    # no configuration files: a pyproject.toml in the current folder belongs to another program
    backend = {"BACKEND": {"kvm-compose": "kvmcompose.build.doit_store:LedgerStore"}}
    main = Main(Loader(), config_filenames=(), extra_config=backend)
    status: int | None = main.run(arguments)
    return status or 0  # some of its commands give nothing back when all is well
