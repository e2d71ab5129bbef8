"""The part of a plan that is about what runs: asked of the server, and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.cli._moves import refuse_moves
from kvmcompose.cli._project import names_of
from kvmcompose.cli._reports import hint_line
from kvmcompose.cli._server import Target, check_folder, find_deployment, server_of
from kvmcompose.cli._up_options import up_command
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.names import first_few

if TYPE_CHECKING:
    import argparse

    from kvmcompose.build.project import Plan, Project
    from kvmcompose.core.commands import Up
    from kvmcompose.core.deployment import Deployment
    from kvmcompose.core.planned import PlannedChange, PlannedHost, TestbedPlan
    from kvmcompose.monitor.console import Console

#: The most names of guests in a line.
_NAMES = 8
#: The most reasons of a change on its line.
_REASONS = 3
_MIB = 1 << 20
_GIB = 1 << 30


class UnseenError(KvmComposeError):
    """What runs cannot be seen from here."""


class NothingUpError(UnseenError):
    """There is nothing to see: nothing of the project was ever up."""


def ask(
    arguments: argparse.Namespace, project: Project, plan: Plan, command: Up | None = None
) -> TestbedPlan:
    """Return what ``up`` would change on hosts; ``command`` has its options. Raises UnseenError."""
    from kvmcompose.build.to_be_made import plan_request
    from kvmcompose.core.deployment import Phase
    from kvmcompose.effects.server_places import was_used

    name = project.compiled.state.project_name
    if arguments.server is None and not was_used():
        raise NothingUpError("no server has run for this user")
    try:
        target = Target(server_of(arguments), name, project.folder.resolve())
        known = find_deployment(target)
        if known is not None:
            check_folder(known, target.here)
            compared = known.state is not Phase.DOWN
            if command is None:
                command = command_of(arguments, project)
                # up builds all files, whatever it is limited to
                plan = project.plan() if command.guests else plan
            found = target.server.plan(name, plan_request(project, plan, command, compared=compared))
            return found if arguments.allow_moves else _with_moves(found, target, project, known)
    except KvmComposeError as error:
        raise UnseenError(error.message, hint=error.hint) from error
    raise NothingUpError(f"the server has no deployment {name!r}: up brings up all of it")


def command_of(arguments: argparse.Namespace, project: Project) -> Up:
    """Return the options of the ``up`` that is planned. Raises UnseenError for names of files."""
    names = names_of(arguments, project)
    others = [name for name in names if name not in project.compiled.state.testbed_guests]
    if others:
        raise UnseenError(f"{first_few(others)} selects files, not guests")
    return up_command(arguments, names)


def _with_moves(found: TestbedPlan, target: Target, project: Project, known: Deployment) -> TestbedPlan:
    from msgspec.structs import replace

    from kvmcompose.core.planned import PlannedRefusal

    try:
        refuse_moves(target, project, known)
    except RefusedError as error:
        refusal = PlannedRefusal(message=error.message, hint=error.hint)
        return replace(found, refusals=(refusal, *found.refusals))
    return found


def show(found: TestbedPlan, console: Console) -> None:
    """Print the changes, what they cost, and what is in the way of them."""
    from kvmcompose.monitor.build import line

    several = len(found.hosts) > 1
    for change in found.changes:
        if change.follows and console.verbosity <= 0:
            continue
        action = "pending" if change.pending else str(change.verb)
        console.data(line(console, action, _subject(change, several=several), change.because, most=_REASONS))
        if change.loses:
            console.data(f"         {change.loses}")
        if change.touches:
            console.data(f"         touches {first_few(list(change.touches), _NAMES)}")
    console.say(_summary(found))
    for host in found.hosts:
        text = _host(host)
        if text:
            console.say(f"{host.name}: {text}")
    for warning in found.warnings:
        console.say(f"warning: {warning}")
    for refusal in found.refusals:
        hint = f"\n{hint_line(refusal.message, refusal.hint)}" if refusal.hint else ""
        console.say(f"up would refuse: {refusal.message}{hint}")


def _subject(change: PlannedChange, *, several: bool) -> str:
    where = f" on {change.host}" if several and change.host not in change.subject.split() else ""
    text = f"{change.subject}{where}"
    if not change.pending:
        return text
    waits = f", waits for up {change.waits_for}" if change.waits_for else ", left as it is"
    return f"{change.verb} of {text}{waits}"


def _summary(found: TestbedPlan) -> str:
    from kvmcompose.client.formatting import duration
    from kvmcompose.core.deployment import Phase
    from kvmcompose.core.resource import Verb

    due = [change for change in found.due if not change.follows]
    counts = {verb: sum(change.verb is verb for change in due) for verb in Verb}
    parts = [f"{count} to {verb}" for verb, count in counts.items() if count]
    pending = sum(change.pending for change in found.changes)
    parts += [f"{pending} pending"] if pending else []
    boots = sum(host.boots for host in found.hosts)
    if boots:
        parts.append("1 guest boots" if boots == 1 else f"{boots} guests boot")
    if boots and found.seconds is not None and found.seconds >= 1:
        parts.append(f"about {duration(found.seconds)}")
    if found.unseen:
        parts.append(f"not all is known of {first_few(found.unseen)}")
    text = ", ".join(parts) or "nothing to do"
    busy = " (an action is running: it may change this)" if found.deployment.state is Phase.RUNNING else ""
    return f"on hosts: {text}{busy}"


def _size(count: int) -> str:
    return f"{count / _MIB:.1f} MiB" if count < _GIB else f"{count / _GIB:.1f} GiB"


def _host(host: PlannedHost) -> str:
    parts = []
    for what, before, after, there, unit in (
        ("memory", host.memory_mb_before, host.memory_mb_after, host.memory_mb, " MiB"),
        ("CPUs", host.cpus_before, host.cpus_after, host.cpus, ""),
    ):
        if before != after:
            of = f" of {there}" if there is not None else ""
            parts.append(f"{what} {before} -> {after}{of}{unit}")
    if host.bytes_to_send:
        parts.append(f"{_size(host.bytes_to_send)} to send")
    if host.disk_bytes:
        of = f" of {_size(host.disk_free)} free" if host.disk_free is not None else ""
        parts.append(f"disk {_size(host.disk_bytes)}{of}")
    return ", ".join(parts)
