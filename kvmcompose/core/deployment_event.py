"""The events of a deployment, as a server streams them to its clients.

Each is one JSON object; ``event`` names its type. ``number`` is where to go on from after a lost connection.
The events of a deployment are numbered in order, across actions and restarts of the server. ``missed``,
``current`` and ``status`` are not stored: they are made for one reader, and have the number of the event
before them. Times are in RFC 3339 format, UTC. Clients ignore events of types that they do not know.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kvmcompose.core.deployment import Action, Deployment, LogLine, Phase, ProblemDetails, Step, TestbedStatus
from kvmcompose.core.probe import Probed


class ActionStarted(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="action-started"
):
    """An action has started."""

    number: int
    time: str
    action: Action


class ActionEnded(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="action-ended"
):
    """An action has ended. It is the last event of its action."""

    number: int
    time: str
    action: Action


class StepStarted(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="step-started"
):
    """A step of an action has started. ``id`` identifies it within its action, whose UUID is ``action``."""

    number: int
    time: str
    action: str
    id: int
    step: Step


class StepEnded(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="step-ended"
):
    """A step of an action has ended; ``step.state`` says how. ``id`` is that of its start."""

    number: int
    time: str
    action: str
    id: int
    step: Step


class LineAdded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="line"):
    """A line was added to the log of an action."""

    number: int
    time: str
    action: str
    line: LogLine


class GuestChanged(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="guest"
):
    """A guest is in another state, or for another reason, on another host, or has another address.

    ``state`` and ``before`` are as in GuestStatus, or ``removed`` for a guest that the testbed no longer has.
    ``reason`` says why, if that is known. ``action`` is set if an action reported the change.
    """

    number: int
    time: str
    guest: str
    host: str
    state: str
    before: str | None = None
    reason: str | None = None
    address: str | None = None
    action: str | None = None


class PhaseChanged(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="phase"
):
    """The deployment is in another state. ``failed_command`` is set when ``state`` is ``failed``.

    ``condition`` is as in Deployment.
    """

    number: int
    time: str
    state: Phase
    failed_command: str | None = None
    action: str | None = None
    condition: str | None = None


class ResourceChanged(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="resource"
):
    """An action has changed a resource on a host.

    ``verb`` says how: ``create``, ``update`` (while in use), ``restart``, ``replace``, ``move``, ``remove``,
    ``repair``. ``kind`` is what it is: ``libvirt-domain``, ``ovs-bridge`` and so on. ``host`` is not
    set for a resource of the testbed as a whole. ``guest`` is the guest that it belongs to.
    """

    number: int
    time: str
    action: str
    verb: str
    kind: str
    name: str
    host: str | None = None
    guest: str | None = None


class ProbeAnswered(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="probed"
):
    """A question of the command ``test`` was answered."""

    number: int
    time: str
    action: str
    answer: Probed


class MissedReason(StrEnum):
    """Why events are missing. ``DROPPED``: they are no longer kept. ``AHEAD``: there was no such number."""

    DROPPED = "dropped"
    AHEAD = "ahead"


class EventsMissed(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="missed"
):
    """Some of the requested events cannot be sent. All events after ``up_to`` follow, and what is kept of
    those before. The next event is ``current``.
    """

    number: int
    time: str
    reason: MissedReason
    up_to: int


class CurrentState(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="current"
):
    """The deployment, its running actions and their running steps, and the last known state of each guest.

    This includes all events up to the number ``as_of``, which may follow nevertheless.
    """

    number: int
    time: str
    as_of: int
    deployment: Deployment
    actions: tuple[Action, ...] = ()
    steps: tuple[StepStarted, ...] = ()
    guests: tuple[GuestChanged, ...] = ()


class StatusReport(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="status"
):
    """The live status, as of now; ``problem`` instead when the server cannot find it out."""

    number: int
    time: str
    status: TestbedStatus | None = None
    problem: ProblemDetails | None = None


#: What is stored.
StoredEvent = (
    ActionStarted
    | ActionEnded
    | StepStarted
    | StepEnded
    | LineAdded
    | GuestChanged
    | PhaseChanged
    | ResourceChanged
    | ProbeAnswered
)
#: What a client receives.
DeploymentEvent = StoredEvent | EventsMissed | CurrentState | StatusReport
