"""``kvm-compose up``: brings the testbed up."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli._beforehand import refuse_beforehand
from kvmcompose.cli._moves import refuse_moves
from kvmcompose.cli._server import (
    Target,
    act,
    add_action_options,
    add_guest,
    find_deployment,
    make_known,
    open_target,
    usage_error,
)
from kvmcompose.cli._trust import add_consent_options, settle
from kvmcompose.cli._up_options import add_up_options, up_command
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.names import first_few, near_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmcompose.build.project import Project
    from kvmcompose.core.commands import Up
    from kvmcompose.core.event import Event, Listener
    from kvmcompose.monitor.console import Console

NAME = "up"
ALIASES = ("apply", "deploy")
HELP = "build artefacts that are out of date, then bring the testbed up"
EXAMPLE = """\
examples:
  kvm-compose up                    networks, guests, setup and run scripts
  kvm-compose up web db             these guests, and what they depend on that does not run
  kvm-compose up --no-restart       leave changes for which a guest has to restart
  kvm-compose up --rerun-scripts    also run setup scripts that have run before
  kvm-compose up --rerun-scripts web
                                    those of one guest, as they are now
  kvm-compose up --recreate web     a new disk for one guest: data that it wrote is lost
  kvm-compose up --provision        make new disks: data that guests wrote is lost
  kvm-compose up --keep-going       continue with other guests when one fails
  kvm-compose up --detach           do not wait; follow with kvm-compose logs -f
  kvm-compose up --dry-run          show what would be done, as plan does
  kvm-compose up --watch            again whenever a file of the project is saved

What differs from the YAML is changed, and nothing else: guests that did not change keep
running. After a failure, up continues from the current state. Ctrl-C cancels and waits
until the action has stopped; a second Ctrl-C leaves that to the server.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_guest(
        parser,
        "guests",
        nargs="*",
        help="change these guests alone, and start those that they depend on (not with --provision)",
    )
    parser.add_argument(
        "-p",
        "--provision",
        action="store_true",
        help="create new disks even for guests that have run: their data is lost",
    )
    add_up_options(parser)
    parser.add_argument(
        "-k", "--keep-going", action="store_true", help="continue with other guests when one fails"
    )
    parser.add_argument(
        "--no-generate", action="store_true", help="use the artefacts as they are, without reading the YAML"
    )
    add_consent_options(parser)
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="carry out this plan (of plan --out FILE, or - for standard input), or nothing if something has"
        " changed since",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done, as plan does; change nothing"
    )
    parser.add_argument(
        "-w",
        "--watch",
        action="store_true",
        help="bring the testbed up again whenever one of the project's files is saved",
    )
    add_action_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Build, bring the testbed up, and return the exit status."""
    if arguments.plan is not None:
        return _carry_out(arguments, console)
    if arguments.dry_run:
        return _only_plan(arguments, console)
    command = up_command(arguments, arguments.guests)
    if arguments.watch:
        from kvmcompose.cli._watch import watch

        return watch(arguments, console, lambda: _build_and_act(arguments, console, command))
    if arguments.no_generate:
        target = open_target(arguments, register=True)
        settle(_built_in(target), arguments, console)
        return _act(target, command, arguments, console)
    return _build_and_act(arguments, console, command)


def _only_plan(arguments: argparse.Namespace, console: Console) -> int:
    """Show what ``up`` would do with these options."""
    from kvmcompose.cli import plan

    if arguments.watch or arguments.no_generate:
        raise usage_error("--dry-run excludes --watch and --no-generate")
    arguments.names = arguments.guests
    arguments.labels, arguments.out = [], None
    for name in ("diff", "detailed_exitcode", "overwrite", "verify"):
        setattr(arguments, name, False)
    return plan.run(arguments, console)


def _carry_out(arguments: argparse.Namespace, console: Console) -> int:
    """Do what a plan says. Raises RefusedError where that is not what would be done now."""
    from msgspec.structs import replace

    from kvmcompose.cli import _stored_plan

    planned = _stored_plan.load(arguments)
    arguments.allow_moves, arguments.provision = planned.allow_moves, planned.options.provision
    command = replace(planned.options, keep_going=arguments.keep_going)
    if planned.testbed is not None:
        command = replace(command, expected=planned.testbed.digest)
    if arguments.dry_run:
        raise usage_error("--dry-run and --plan exclude each other")
    return _build_and_act(
        arguments, console, command, lambda project: _stored_plan.check(arguments, project, planned)
    )


def _build_and_act(
    arguments: argparse.Namespace,
    console: Console,
    command: Up,
    check: Callable[[Project], None] | None = None,
) -> int:
    """``check`` raises RefusedError for a project that is not brought up."""
    from kvmcompose.cli._project import open_project
    from kvmcompose.cli._server import server_of
    from kvmcompose.core.deployment import Phase

    project = open_project(arguments, console)  # report problems of the YAML before a server is started
    name = project.compiled.state.project_name
    target = Target(server_of(arguments), name, project.folder.resolve())
    check_names(project, command)
    if check is not None:
        check(project)
    known = find_deployment(target)
    # nothing is built while an action is running: the server will refuse anyway
    if known is None or known.state is not Phase.RUNNING:
        if arguments.provision and known is not None:
            _refuse_running_guests(target)
        if known is not None and not arguments.allow_moves:
            refuse_moves(target, project, known)
        refuse_beforehand(target, project, known, command, arguments, console)
        if not _build(project, arguments, console):
            return 1
    settle(project.folder, arguments, console)
    make_known(target)
    held = project.held()
    status = _act(target, command, arguments, console)
    if held and status == 0 and not arguments.detach:
        _remove_released(project, held, console)
    return status


def check_names(project: Project, command: Up) -> None:
    """Raise RefusedError for guests that there are not, before anything is built for the others."""
    known = project.compiled.state.testbed_guests
    for name in (*command.guests, *command.rerun_guests, *command.recreate):
        if name not in known:
            raise RefusedError(f"there is no guest {name!r}", hint=near_names(name, known))


def _remove_released(project: Project, held: Sequence[str], console: Console) -> None:
    """Remove what the build had to keep, as guests used it that the testbed does not have any more."""
    from kvmcompose.build.generate import generate
    from kvmcompose.core.event import Done
    from kvmcompose.monitor.build import line

    kept: list[Done] = []

    def listen(event: Event) -> None:
        if isinstance(event, Done) and event.path in held:
            kept.append(event)

    with suppress(KvmComposeError):  # the next build reports it
        generate(project.read_again(), (), listener=listen, waiting=None)
    gone = [path for path in held if not (project.folder / path).exists()]
    for each in kept:
        if each.path not in gone:
            console.say(line(console, each.action, each.path, each.reasons, sys.stderr))
    if gone:
        console.say(f"removed, as nothing uses it any more: {first_few(gone)}")


def _act(target: Target, command: Up, arguments: argparse.Namespace, console: Console) -> int:
    from kvmcompose.cli._guests_up import reached, show_guests, totals

    folder = _built_in(target)
    named = (*command.guests, *command.rerun_guests, *command.recreate) if command.guests else ()
    only = reached(folder, named)

    def succeeded() -> int:
        return show_guests(target, arguments, console, only)

    return act(target, command, arguments, console, totals=totals(folder, only), succeeded=succeeded)


def _built_in(target: Target) -> Path:
    """Return the folder of a deployment: this one, or the one that the server knows."""
    return target.here or Path(target.server.deployment(target.name).project_location)


def _refuse_running_guests(target: Target) -> None:
    running = [
        guest.name
        for guest in target.server.status(target.name).guests
        if guest.state in ("running", "paused", "pmsuspended")
    ]
    if running:
        raise RefusedError(
            f"cannot replace disks of running guests: {', '.join(running)}", hint="kvm-compose down"
        )


def _build(project: Project, arguments: argparse.Namespace, console: Console) -> bool:
    from kvmcompose.build.generate import generate
    from kvmcompose.monitor.build import BuildJson, BuildLines

    def waiting(holder: str) -> None:
        console.say(f"waiting for another build in this project (process {holder})")

    def build(listener: Listener) -> bool:
        return generate(project, (), listener=listener, waiting=waiting)

    if arguments.json:
        return build(BuildJson(console))
    with BuildLines(console, data=False) as lines:
        held = set(project.held())  # up removes these when their guests have stopped
        return build(lambda event: lines(event) if getattr(event, "path", None) not in held else None)
