"""``kvm-compose plan``: shows what ``up`` would do to files and to what runs, and why."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli import _stored_plan as stored_plan
from kvmcompose.cli import _what_runs as what_runs
from kvmcompose.cli._labels import add_labels
from kvmcompose.cli._project import add_names, names_of, open_project
from kvmcompose.cli._server import add_server_options, unknown_name
from kvmcompose.cli._up_options import add_up_options, up_command
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.monitor.build import line
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvmcompose.build.decision import Decision, Disposition
    from kvmcompose.build.project import Plan, Project
    from kvmcompose.core.planned import PlannedFile, TestbedPlan

NAME = "plan"
HELP = "show what up would do and why, to files and to what runs; change nothing"
EXAMPLE = """\
examples:
  kvm-compose plan
  kvm-compose plan --diff                changes in XML, network and state
  kvm-compose plan --detailed-exitcode   exit with status 2 if there are changes (for CI)
  kvm-compose plan --out lab.plan && kvm-compose up --plan lab.plan
"""

#: With --detailed-exitcode, as in Terraform.
_CHANGES = 2
_MIB = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_names(parser)
    add_labels(parser)
    parser.add_argument("--diff", action="store_true", help="show differences in text artefacts")
    parser.add_argument(
        "--detailed-exitcode",
        action="store_true",
        help="exit with status 2 when there are changes, 0 when there are none",
    )
    parser.add_argument("--overwrite", action="store_true", help="plan a generate --overwrite")
    parser.add_argument("--provision", action="store_true", help="plan a generate --provision")
    parser.add_argument(
        "--verify", action="store_true", help="read every artefact, regardless of its time stamp"
    )
    add_up_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the plan, for up --plan FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Show the plan."""
    project = open_project(arguments, console)
    plan = project.plan(names_of(arguments, project))
    files = FilePlan(project, plan)
    selected = bool(arguments.names or arguments.labels)
    testbed, unseen = None, None
    try:
        testbed = what_runs.ask(arguments, project, plan)
    except what_runs.UnseenError as error:
        unseen = error
    diffs = files.diffs() if arguments.diff else {}
    if arguments.out is not None:
        _store(arguments, project, testbed, unseen)
    if arguments.json:
        command = up_command(arguments, arguments.names)
        rows = files.rows(diffs)
        console.json(stored_plan.document(arguments, project, command, rows, testbed, unseen))
    else:
        files.show(diffs, console)
        if testbed is None:
            _show_loads(project, console)
        else:
            what_runs.show(testbed, console)
        if unseen is not None:
            quiet = isinstance(unseen, what_runs.NothingUpError)
            (console.detail if quiet else console.say)(f"what runs is not seen: {unseen.message}")
        if not selected:
            _show_word(project, arguments.allow_path, files.to_write, console)
    changes = files.changes or (testbed is not None and _is_up(testbed) and bool(testbed.due))
    return _CHANGES if arguments.detailed_exitcode and changes else 0


def _store(
    arguments: argparse.Namespace,
    project: Project,
    testbed: TestbedPlan | None,
    unseen: what_runs.UnseenError | None,
) -> None:
    """Write the plan. It has all files: up builds them, whatever it is limited to."""
    if arguments.overwrite:
        raise unknown_name("--out excludes --overwrite: up overwrites nothing")
    command = up_command(arguments, names_of(arguments, project))
    rows = FilePlan(project, project.plan()).rows({})
    made = stored_plan.document(arguments, project, command, rows, testbed, unseen)
    stored_plan.store(arguments.out, made, unseen)


def _is_up(testbed: TestbedPlan) -> bool:
    from kvmcompose.core.deployment import Phase

    return testbed.deployment.state is not Phase.DOWN


class FilePlan:
    """The part of a plan that is about files."""

    def __init__(self, project: Project, plan: Plan) -> None:
        self._project = project
        self._images = plan.images
        self._decisions: tuple[Decision, ...] = (*plan.decisions, *plan.stale)

    def _all(self) -> list[tuple[Disposition, str, str, tuple[str, ...]]]:
        """Return action, path, task and reasons of images and artefacts."""
        rows = [(step.action, step.task, step.task, step.reasons) for step in self._images]
        return rows + [(each.action, each.path, each.task, each.reasons) for each in self._decisions]

    def _pending(self) -> list[tuple[Disposition, str, str, tuple[str, ...]]]:
        from kvmcompose.build.decision import Disposition

        return [row for row in self._all() if row[0] not in (Disposition.KEEP, Disposition.ADOPT)]

    @property
    def changes(self) -> bool:
        """Whether a build has something to do."""
        from kvmcompose.build.decision import Disposition

        return any(row[0] not in (Disposition.CUSTOMISED, Disposition.LEFT_OVER) for row in self._pending())

    @property
    def to_write(self) -> set[str]:
        """The paths of artefacts that a build writes or removes."""
        from kvmcompose.build.decision import FAILING, SETTLED

        return {each.path for each in self._decisions if each.action not in SETTLED | FAILING}

    def diffs(self) -> dict[str, str]:
        """Return the differences of text artefacts, by path."""
        from kvmcompose.build.explain import difference

        return {each.path: difference(self._project, each) for each in self._decisions}

    def rows(self, diffs: Mapping[str, str]) -> tuple[PlannedFile, ...]:
        """Return all images and artefacts."""
        from kvmcompose.core.planned import PlannedFile

        return tuple(
            PlannedFile(
                action=action.value, path=path, task=task, reasons=reasons, diff=diffs.get(path) or None
            )
            for action, path, task, reasons in self._all()
        )

    def show(self, diffs: Mapping[str, str], console: Console) -> None:
        """Print what a build would do."""
        for action, path, _task, reasons in self._all() if console.verbosity > 0 else self._pending():
            console.data(line(console, action.value, path, reasons))
            if diffs.get(path):
                console.verbatim(_coloured(console, diffs[path]))
        steps = [step.action for step in self._images if not step.settled]
        console.say(_summary([*steps, *(each.action for each in self._decisions)]))


def _show_loads(project: Project, console: Console) -> None:
    """Print what up would send to other hosts, as far as that is built and known on this host."""
    from kvmcompose.hosts.transfer_plan import plan_transfers

    state = project.compiled.state
    others = [host.name for host in state.testbed_hosts.values() if not host.is_main_host]
    try:
        found = plan_transfers(project.folder, state) if others else []
    except (OSError, KvmComposeError):
        console.say(f"transfers to {', '.join(others)} are known once everything is built")
        return
    for load in found:
        unmade = "".join(f", and {Path(path).name} once it is set up" for path in load.unmade)
        size = f"{load.size / _MIB:.1f} MiB" if load.files else "nothing"
        console.say(f"up would send {size} to {load.host}{unmade}")
        for file in load.files:
            console.detail(f"  {file.size / _MIB:8.1f} MiB  {file.path}")


def _show_word(project: Project, allow_paths: Sequence[str], to_write: set[str], console: Console) -> None:
    """Print whether up would ask for consent, by the files that are kept and those to be written."""
    from kvmcompose.build.trust import asked_of, given_by_variable
    from kvmcompose.core.state import decode_state, encode_state

    if given_by_variable():
        return
    state = decode_state(encode_state(project.compiled.state))
    with suppress(OSError, KvmComposeError):  # the plan reports it already
        new = asked_of(project.folder, state, allow_paths, to_write).new
        if new:
            things = "1 thing that it does" if len(new) == 1 else f"{len(new)} things that it does"
            console.say(f"up would ask for your consent to {things} to the host: kvm-compose trust")


def _summary(actions: list[Disposition]) -> str:
    from kvmcompose.build.decision import FAILING, SETTLED, Disposition

    counts: Counter[Disposition] = Counter(
        Disposition.KEEP if action is Disposition.ADOPT else action for action in actions
    )
    kept = counts.pop(Disposition.KEEP, 0)
    to_do = [action for action in Disposition if action in counts and action not in (*FAILING, *SETTLED)]
    parts = [f"{counts[action]} to {action.value}" for action in to_do]
    parts += [f"{counts.pop(Disposition.CUSTOMISED)} customised"] if Disposition.CUSTOMISED in counts else []
    parts += [f"{counts.pop(Disposition.LEFT_OVER)} left over"] if Disposition.LEFT_OVER in counts else []
    stuck = sum(counts[action] for action in FAILING)
    if stuck:
        parts.append(f"{stuck} would fail")
    return ", ".join([*(parts or ["nothing to do"]), f"{kept} up to date"])


def _coloured(console: Console, diff: str) -> str:
    colours = {"+": "green", "-": "red", "@": "blue"}
    lines = diff.rstrip("\n").split("\n")
    return "\n".join(console.paint(text, colours[text[0]]) if text[:1] in colours else text for text in lines)
