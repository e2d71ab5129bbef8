"""Shared by the commands that talk to a testbed server."""

from __future__ import annotations

import argparse
import difflib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem, RefusedError
from kvmcompose.core.names import PROJECT_NAME
from kvmcompose.effects.environment import is_on

if TYPE_CHECKING:
    from kvmcompose.client.remote import RemoteServer
    from kvmcompose.core.access import GuestAccess
    from kvmcompose.core.commands import Command
    from kvmcompose.core.deployment import Action, Deployment
    from kvmcompose.monitor.action import Totals
    from kvmcompose.monitor.console import Console

#: The exit status after Ctrl-C, and for cancelled actions.
INTERRUPTED = 130

_CONFLICT = 409
_NOT_FOUND = 404


class Target(NamedTuple):
    """A deployment on a server. ``here`` is the project folder if the command was called in one."""

    server: RemoteServer
    name: str
    here: Path | None


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the server."""
    env = os.environ.get
    group = parser.add_argument_group("server options")
    group.add_argument(
        "--server",
        metavar="ADDRESS",
        default=env("KVM_COMPOSE_SERVER"),
        help="unix:/path, http://host:port or https://host:port (default: the user's own, started if needed)",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        default=env("KVM_COMPOSE_TOKEN_FILE"),
        help="a file with the bearer token",
    )
    group.add_argument(
        "--ca-file",
        metavar="FILE",
        default=env("KVM_COMPOSE_CA_FILE"),
        help="the CA certificate to verify the server's certificate",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        default=is_on("KVM_COMPOSE_INSECURE"),
        help="send the token even without TLS and to any listener; only for trusted networks",
    )


def server_of(arguments: argparse.Namespace) -> RemoteServer:
    """Return the server that the options select. Raises ServerError."""
    from kvmcompose.client.connect import connect

    return connect(
        arguments.server,
        token_file=arguments.token_file,
        ca_file=arguments.ca_file,
        insecure=arguments.insecure,
    )


def open_target(arguments: argparse.Namespace, *, register: bool = False) -> Target:
    """Return the deployment that the global options name.

    This is the one of the current project folder, or with ``--project-name`` any. With ``register`` the
    project of this folder is registered with the server if necessary. Raises UnknownDeploymentError,
    InputError.
    """
    name, here = _name(arguments)
    target = Target(server_of(arguments), name, here)
    found = find_deployment(target)
    if found is not None:
        check_folder(found, here)
    if found is None and here is not None and register:
        make_known(target)
    elif found is None:
        raise _unknown(target)
    return target


def find_deployment(target: Target) -> Deployment | None:
    """Return the deployment as the server knows it, or None."""
    from kvmcompose.client.errors import ServerError

    try:
        return target.server.deployment(target.name)
    except ServerError as error:
        if error.status == _NOT_FOUND:
            return None
        raise


def check_folder(found: Deployment, here: Path | None) -> None:
    """Raise RefusedError when the server knows another project by that name."""
    if here is not None and not found.project_location and found.owner is not None:
        raise RefusedError(
            f"the deployment {found.name!r} on this server belongs to {found.owner}",
            hint="choose another name for this project: --project-name NAME",
        )
    if here is not None and Path(found.project_location) != here:
        raise RefusedError(
            f"on this server {found.name!r} is the project in {found.project_location}, not this one",
            hint="choose another name with --project-name, or take the other one down and remove it: "
            f"kvm-compose deployments remove {found.name}",
        )


def make_known(target: Target) -> None:
    """Register the project in this folder with the server. Raises ServerError."""
    from kvmcompose.core.deployment import NewDeployment

    target.server.put(NewDeployment(target.name, str(target.here)))


class UnknownDeploymentError(KvmComposeError):
    """The server has no deployment of that name."""


def _unknown(target: Target) -> KvmComposeError:
    if target.here is not None:
        return UnknownDeploymentError(
            f"no such deployment on this server: {target.name!r}",
            hint="kvm-compose up registers it and brings it up",
        )
    known = [each.name for each in target.server.deployments()]
    near = difflib.get_close_matches(target.name, known, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "kvm-compose deployments lists all"
    return unknown_name(f"no project in this folder, and no deployment {target.name!r}", hint)


def _name(arguments: argparse.Namespace) -> tuple[str, Path | None]:
    """Return the name of the deployment, and the project folder if this is one."""
    from kvmcompose.client.built_project import name_of

    here = project_here(arguments)
    if arguments.project_name is not None:
        if PROJECT_NAME.fullmatch(arguments.project_name) is None:
            raise usage_error(f"invalid project name {arguments.project_name!r}")
        return arguments.project_name, here
    return name_of(arguments.directory.resolve()), here


def project_here(arguments: argparse.Namespace) -> Path | None:
    """Return the folder of the command, if it is a project."""
    folder: Path = arguments.directory.resolve()
    files = ("state.json", arguments.input or "kvm-compose.yaml")
    return folder if any((folder / file).is_file() for file in files) else None


def act(
    target: Target,
    command: Command,
    arguments: argparse.Namespace,
    console: Console,
    *,
    totals: Totals | None = None,
    succeeded: Callable[[], int] | None = None,
) -> int:
    """Start an action, watch it to its end unless it is detached, and return the exit status.

    ``totals``: how much its stages have to do. ``succeeded`` prints what a person wants to know after it,
    and returns the number of guests that run.

    The exit status is that of an interrupted command after Ctrl-C, even if the action ended by itself just
    then: what would follow is not wanted any more.
    """
    from kvmcompose.client.action import perform
    from kvmcompose.monitor.action import ActionJson, ActionLines

    if arguments.detach:
        uuid = target.server.act(target.name, command)
        if arguments.json:
            console.json_line({"uuid": uuid})
        else:
            console.verbatim(uuid)
        return 0
    watcher = ActionJson(console) if arguments.json else ActionLines(console, totals=totals or {})
    interrupted = threading.Event()
    try:
        action = perform(target.server, target.name, command, watcher, interrupted=interrupted)
    finally:
        console.status("")
    guests = None
    if succeeded is not None and not arguments.json and exit_status(action) == 0:
        guests = succeeded()
    watcher.ended(action, guests)
    return INTERRUPTED if interrupted.is_set() else exit_status(action)


def add_action_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that starts an action."""
    parser.add_argument(
        "--detach",
        action="store_true",
        help="do not wait, but print the UUID of the action (see logs --action)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the log as lines of JSON, followed by the action"
    )
    add_server_options(parser)


def exit_status(action: Action) -> int:
    """Return the exit status for an action that has ended."""
    from kvmcompose.core.deployment import ActionState

    if action.state is ActionState.SUCCEEDED:
        return 0
    if action.state is ActionState.CANCELLED:
        return INTERRUPTED
    return RefusedError.exit_code if action.refused else KvmComposeError.exit_code


def action_named(target: Target, uuid: str | None) -> Action:
    """Return an action by its UUID or a prefix of it, else the latest one. Raises InputError."""
    actions = target.server.actions(target.name)
    if uuid is None:
        if not actions:
            raise UnknownDeploymentError(f"{target.name!r} has had no actions yet")
        return actions[0]
    found = [action for action in actions if action.uuid.startswith(uuid)]
    if len(found) == 1:
        return found[0]
    what = f"{uuid!r} is ambiguous: {len(found)} actions" if found else f"no such action: {uuid!r}"
    raise unknown_name(what, "kvm-compose logs --list shows all")


def add_action_name(parser: argparse.ArgumentParser) -> None:
    """Add the option that selects an action."""
    parser.add_argument(
        "--action", metavar="UUID", help="the action, by the start of its UUID (default: the latest)"
    )


def guest_named(target: Target, known: Iterable[str], given: str) -> str:
    """Return the known guest of a name, with or without the project's name as prefix.

    Raises InputError when there is none, and RefusedError when it is of a type that cannot run.
    """
    names, project = list(known), target.name
    candidates = (given, given.removeprefix(f"{project}-"))
    for name in candidates:
        if name in names:
            return name
    for guest in target.server.status(project).guests:
        if guest.name in candidates:
            raise RefusedError(
                f"{guest.name} is a {guest.kind} guest: no runtime runs these",
                hint=f"guests: {', '.join(names) or 'none'}",
            )
    near = difflib.get_close_matches(given, names, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"guests: {', '.join(names) or 'none'}"
    raise unknown_name(f"no such guest in {project}: {given!r}", hint)


def access_to(target: Target, given: str) -> GuestAccess:
    """Return how to reach a guest. Raises InputError when there is none of that name."""
    guests = {guest.name: guest for guest in target.server.access(target.name)}
    return guests[guest_named(target, guests, given)]


def unknown_name(message: str, hint: str | None = None) -> InputError:
    """Return the error for a wrong name on the command line."""
    where = Location("command line")
    return InputError([Problem(code="unknown-name", message=message, location=where, hint=hint)])


def usage_error(message: str, hint: str | None = None) -> InputError:
    """Return the error for arguments that are invalid, or exclude each other."""
    where = Location("command line")
    return InputError([Problem(code="usage", message=message, location=where, hint=hint)])


def add_guest(parser: argparse.ArgumentParser, *words: str, **options: Any) -> None:
    """Add an argument that names a guest, which the shell can complete."""
    guest = parser.add_argument(*(words or ("guest",)), metavar="GUEST", **options)
    guest.completer = complete_guests  # type: ignore[attr-defined] # argcomplete looks for it


def complete_guests(parsed_args: argparse.Namespace, **_rest: object) -> list[str]:
    """Return the names of guests, for the shell."""
    from kvmcompose.client.built_project import read_built

    built = read_built(parsed_args.directory)
    return [] if built is None else list(built.testbed_guests)
