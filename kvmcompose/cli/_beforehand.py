"""Refuses an ``up`` before anything is built for it: what is in the way is known in memory."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from kvmcompose.cli._file_plan import FilePlan
from kvmcompose.cli._reports import report
from kvmcompose.cli._trust import settle_asked
from kvmcompose.core.errors import KvmComposeError, RefusedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from kvmcompose.build.project import Plan, Project
    from kvmcompose.cli._server import Target
    from kvmcompose.core.commands import Up
    from kvmcompose.core.deployment import Deployment
    from kvmcompose.core.planned import PlannedRefusal
    from kvmcompose.monitor.console import Console


def refuse_beforehand(
    target: Target,
    project: Project,
    known: Deployment | None,
    command: Up,
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    """Raise RefusedError where the server would refuse what is built now, or the user has to consent to it.

    ``known`` is the deployment, None for one that the server does not know: then no host is asked, as a new
    project may name any. What cannot be found out is left to the build and to the server.
    """
    from kvmcompose.core.deployment import Phase

    plan = project.plan()
    files = FilePlan(project, plan)
    if known is not None and known.state is not Phase.DOWN:
        _refuse_new_disks(project, files, console)
    if not files.changes or files.fails:
        return  # the server refuses by itself, or the build says what is wrong
    _settle(project, files, arguments, console)
    if known is not None:
        found = _refusals(target, project, known, plan, command)
        _refuse([(each.message, each.hint) for each in found], console)


def _refuse_new_disks(project: Project, files: FilePlan, console: Console) -> None:
    """Raise RefusedError where disks of what is up would have to be new ones."""
    from kvmcompose.build.decision import Making

    guests = project.compiled.state.testbed_guests
    found: list[tuple[str, str | None]] = []
    for each in files.in_use:
        name = each.task.rpartition(":")[2]
        alone = name in guests and not guests[name].is_golden_image
        give_up = (
            f"kvm-compose down {name}; kvm-compose generate --provision {name}; kvm-compose up"
            if alone
            else "kvm-compose down; kvm-compose up --provision, which makes all disks new"
        )
        hint = (isinstance(each, Making) and each.hint) or f"to give up its data: {give_up}"
        found.append((f"{each.path} is kept as it is: {'; '.join(each.reasons)}", hint))
    _refuse(found, console)


def _refuse(found: Sequence[tuple[str, str | None]], console: Console) -> None:
    """Report all that is in the way, the last of it as an error that is raised."""
    refusals = [RefusedError(message, hint=hint) for message, hint in found]
    for each in refusals[:-1]:
        report(each, console)
    if refusals:
        raise refusals[-1]


def _refusals(
    target: Target, project: Project, known: Deployment, plan: Plan, command: Up
) -> Sequence[PlannedRefusal]:
    from kvmcompose.build.to_be_made import plan_request
    from kvmcompose.core.deployment import Phase

    with suppress(KvmComposeError):  # the next request reports it
        request = plan_request(project, plan, command, compared=known.state is not Phase.DOWN)
        return target.server.plan(target.name, request).refusals
    return ()


def _settle(project: Project, files: FilePlan, arguments: argparse.Namespace, console: Console) -> None:
    """Ask for consent, as far as it is known what the project will do to the host."""
    from kvmcompose.build.trust import Asked, asked_of, given_by_variable
    from kvmcompose.core.state import decode_state, encode_state

    if given_by_variable():
        return
    state = decode_state(encode_state(project.compiled.state))

    def asked() -> Asked:
        return asked_of(project.folder, state, arguments.allow_path, files.to_write)

    with suppress(OSError):  # the build reports it
        settle_asked(project.folder, asked, arguments, console)
