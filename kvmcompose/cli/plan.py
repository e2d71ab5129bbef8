"""``kvm-compose plan``: shows what ``up`` would do to files and to what runs, and why."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli import _stored_plan as stored_plan
from kvmcompose.cli import _what_runs as what_runs
from kvmcompose.cli._file_plan import FilePlan
from kvmcompose.cli._labels import add_labels
from kvmcompose.cli._project import add_names, names_of, open_project
from kvmcompose.cli._server import add_server_options, usage_error
from kvmcompose.cli._up_options import add_up_options, up_command
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmcompose.build.project import Project
    from kvmcompose.build.trust import Asked
    from kvmcompose.core.planned import TestbedPlan

NAME = "plan"
HELP = "show what up would do and why, to files and to what runs; change nothing"
EXAMPLE = """\
examples:
  kvm-compose plan
  kvm-compose plan --diff                changes in XML, network and state
  kvm-compose plan --detailed-exitcode   exit with status 2 if there are changes (for CI)
  kvm-compose plan --out lab.plan        and, once it was read:
  kvm-compose up --plan lab.plan         carries out exactly this, or nothing

Files come first, then what runs on the hosts, if the testbed is or was up. "pending" waits
for the option that is named. kvm-compose up --dry-run shows both in any case.
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
    parser.add_argument("--overwrite", action="store_true", help="show what generate --overwrite would do")
    parser.add_argument(
        "--provision",
        action="store_true",
        help="show what --provision would do: new disks, data of guests is lost",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read every artefact, regardless of its time stamp"
    )
    add_up_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also write the plan to a file, for up --plan FILE"
    )
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
        from msgspec.structs import replace

        command = up_command(arguments, arguments.names)
        rows = files.rows(diffs)
        made = stored_plan.document(arguments, project, command, rows, testbed, unseen)
        asked = _asked(project, arguments.allow_path, files.to_write)
        console.json(made if asked is None else replace(made, consent=asked.request))
    else:
        files.show(diffs, console, label="" if testbed is None else "files: ")
        if testbed is None:
            _show_loads(project, console)
        else:
            what_runs.show(testbed, console)
        if unseen is not None:
            quiet = isinstance(unseen, what_runs.NothingUpError)
            (console.detail if quiet else console.say)(f"what runs is not seen: {unseen.message}")
        if not selected:
            _show_word(_asked(project, arguments.allow_path, files.to_write), console)
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
        raise usage_error("--out excludes --overwrite: up overwrites nothing")
    command = up_command(arguments, names_of(arguments, project))
    rows = FilePlan(project, project.plan()).rows({})
    made = stored_plan.document(arguments, project, command, rows, testbed, unseen)
    stored_plan.store(arguments.out, made, unseen)


def _is_up(testbed: TestbedPlan) -> bool:
    from kvmcompose.core.deployment import Phase

    return testbed.deployment.state is not Phase.DOWN


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


def _asked(project: Project, allow_paths: Sequence[str], to_write: set[str]) -> Asked | None:
    """Return what up would ask consent for, by the files that are kept and those to be written."""
    from kvmcompose.build.trust import asked_of, given_by_variable
    from kvmcompose.core.state import decode_state, encode_state

    if given_by_variable():
        return None
    state = decode_state(encode_state(project.compiled.state))
    with suppress(OSError, KvmComposeError):  # the plan reports it already
        asked = asked_of(project.folder, state, allow_paths, to_write)
        return None if asked.trusted else asked
    return None


def _show_word(asked: Asked | None, console: Console) -> None:
    """Print whether up would ask for consent."""
    if asked is not None:
        count = len(asked.new)
        things = "1 thing that it does" if count == 1 else f"{count} things that it does"
        console.say(f"up would ask for your consent to {things} to the host: kvm-compose trust")
