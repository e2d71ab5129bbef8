"""What a picture of the topology shows of guests: how they are now, or what ``up`` would do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmcompose.cli._server import open_target
from kvmcompose.core.resource import Verb
from kvmcompose.drawing.svg import NodeMark

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from kvmcompose.build.project import Project
    from kvmcompose.core.deployment import GuestStatus

#: The tones of states and health; those that are not here are bad.
_STATES = {
    "running": "good",
    "healthy": "good",
    "starting": "busy",
    "golden": "off",
    "unsupported": "off",
    "stopped": "off",
    "paused": "off",
}
#: What stands for all changes of a guest, the most important first, with its tone and a word.
_VERBS = {
    Verb.REPLACE: ("bad", "would be replaced"),
    Verb.MOVE: ("busy", "would move to another host"),
    Verb.RESTART: ("busy", "would restart"),
    Verb.CREATE: ("new", "would be started"),
    Verb.REPAIR: ("busy", "would be repaired"),
    Verb.UPDATE: ("busy", "would be changed while it runs"),
    Verb.REMOVE: ("off", "would be stopped"),
}


def of_status(arguments: argparse.Namespace) -> dict[str, NodeMark]:
    """Return how guests are now. Raises ServerError or RefusedError."""
    target = open_target(arguments, register=True)
    return {guest.name: _mark(guest) for guest in target.server.status(target.name).guests}


def _mark(guest: GuestStatus) -> NodeMark:
    from kvmcompose.client.formatting import guest_state_text

    word = guest_state_text(guest)
    return NodeMark(_STATES.get(word.partition(":")[0].partition(" (")[0], "bad"), word)


def of_plan(arguments: argparse.Namespace, project: Project) -> Mapping[str, NodeMark]:
    """Return what ``up`` would do with guests that it would change. Raises UnseenError."""
    from kvmcompose.cli import _what_runs
    from kvmcompose.core.commands import Up

    arguments.allow_moves = True  # refusals have no place in a picture
    try:
        changes = _what_runs.ask(arguments, project, project.plan(), Up()).due
    except _what_runs.NothingUpError:
        guests = project.compiled.state.testbed_guests.items()
        return {name: _planned(Verb.CREATE) for name, guest in guests if not guest.is_golden_image}
    found: dict[str, set[Verb]] = {}
    for change in changes:
        if change.guest is not None:
            found.setdefault(change.guest, set()).add(change.verb)
    return {name: _planned(next(verb for verb in _VERBS if verb in verbs)) for name, verbs in found.items()}


def _planned(verb: Verb) -> NodeMark:
    return NodeMark(*_VERBS[verb])
