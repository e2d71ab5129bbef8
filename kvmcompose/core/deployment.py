"""Deployments, actions, their logs and the live status: the types that the server and its clients exchange.

They are the API's JSON (see ``kvmcompose.server.api``): the server encodes them, clients decode them, and
the OpenAPI document is generated from them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from kvmcompose.core.commands import ProjectName


class Phase(StrEnum):
    """The state of a deployment. With ``FAILED`` the deployment also has the command that failed."""

    DOWN = "down"
    RUNNING = "running"
    UP = "up"
    FAILED = "failed"


class NewDeployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A project folder to register with the server under a name."""

    name: ProjectName
    project_location: Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A project that is registered with the server. ``failed_command`` is set when ``state`` is ``failed``.

    ``condition`` is the state in one word. While ``state`` is ``running``: what the action does
    (``starting``, ``stopping``, ``restarting``, ``pausing``, ``resuming``). Where it is ``failed``: how the
    action ended (``failed``, ``cancelled``, ``interrupted``). Where it is ``up``: ``up``, or ``degraded`` if
    a look has found that something was changed outside of kvm-compose or that a host does not respond;
    ``drift`` is how much of it differs so.
    ``owner`` is the user who registered it. Users without access see name, state and owner only:
    ``project_location`` is empty, and there is no command and no action.
    """

    name: str
    project_location: str
    state: Phase
    failed_command: str | None = None
    last_action_uuid: str | None = None
    owner: str | None = None
    condition: str | None = None
    drift: int = 0


class ActionState(StrEnum):
    """The state of an action. ``INTERRUPTED``: the server died while the action ran."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The failure of one step of an action. ``hint`` says how to fix it."""

    step: str
    message: str
    guest: str | None = None
    host: str | None = None
    hint: str | None = None


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a user gave for a deployment, and its outcome. Times are in RFC 3339 format, UTC.

    A daemon gives the command ``reconnect`` itself. ``refused`` means that a failed action changed nothing.
    ``exit_status`` is that of the command of an ``exec``. ``asked_by`` is the authenticated user, ``who`` the
    name that the client gave.
    """

    uuid: str
    deployment: str
    command: str
    options: dict[str, Any]
    state: ActionState
    started: str
    ended: str | None = None
    faults: tuple[Fault, ...] = ()
    refused: bool = False
    exit_status: int | None = None
    who: str | None = None
    asked_by: str | None = None


class StepState(StrEnum):
    """The state of a step. ``SKIPPED``: no change was needed."""

    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step of an action, in the group ``stage``. Times are in RFC 3339 format, UTC."""

    name: str
    stage: str
    state: StepState
    started: str
    ended: str | None = None
    guest: str | None = None
    host: str | None = None


class Level(StrEnum):
    """The level of a log line. ``OUTPUT``: a line that a script or a console printed."""

    INFO = "info"
    OUTPUT = "output"
    WARNING = "warning"
    ERROR = "error"


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line of an action's log. ``sequence`` counts from 1 in each action; ``time`` is as in RFC 3339."""

    sequence: int
    time: str
    level: Level
    text: str
    stage: str | None = None
    step: str | None = None
    guest: str | None = None
    host: str | None = None


class ActionAccepted(msgspec.Struct, frozen=True):
    """The response to a command: the UUID of its action."""

    uuid: str


class GuestStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The live status of a guest.

    ``state`` is libvirt's (``running``, ``shut off``, ``paused``, ``crashed``), ``absent`` when its host has
    no such domain, ``unknown`` when its host does not respond, ``golden`` for a golden image that is off,
    ``unsupported`` for a guest type that no runtime runs. ``reason`` says why it is in that state, where
    libvirt knows. ``asked`` is what ``stop`` or ``pause`` asked it to be: ``shut off`` or ``paused``.
    ``uptime`` is in seconds; ``cpu`` is the share of one CPU (1.0 is one busy CPU) since the previous query;
    ``memory_mb`` is the resident memory on the host, which can exceed ``given_mb``, what the guest has;
    ``used_mb`` is what it uses of that, None where its balloon driver does not report it; all in MiB.
    ``address`` is where the main host reaches it; ``addresses`` are all known ones.
    ``outdated`` is what changed since the guest was set up (``environment GREETING added``); empty when
    nothing did, and while nothing is known of what ran. ``runtime`` is what runs it: one that libvirt runs is
    entered by SSH. ``health`` is what the healthcheck of a guest that runs says: ``healthy``, ``unhealthy``
    or ``starting``; None for a guest without one.
    """

    name: str
    kind: str
    host: str
    state: str
    reason: str | None = None
    asked: str | None = None
    address: str | None = None
    addresses: tuple[str, ...] = ()
    golden_image: str | None = None
    uptime: float | None = None
    cpu: float | None = None
    memory_mb: int | None = None
    used_mb: int | None = None
    given_mb: int | None = None
    outdated: tuple[str, ...] = ()
    runtime: str = "libvirt"
    health: str | None = None


class SnapshotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a guest. ``created`` is in RFC 3339 format; ``state`` is the guest's at that time."""

    guest: str
    name: str
    created: str
    state: str
    current: bool = False


class StatusDifference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that has changed since a testbed was brought up; ``text`` says what, and how.

    ``kind`` is the kind of the resource as in a plan, ``host`` for a host that does not answer, ``project``
    where the project folder cannot be used. ``host``, ``guest`` and ``segment`` are what it is of;
    ``segment`` is the name of a bridge, switch or router in the testbed. ``drift``: nothing in the project
    asks for it, and ``up`` repairs it.
    """

    text: str
    kind: str
    host: str | None = None
    guest: str | None = None
    segment: str | None = None
    drift: bool = False


class TestbedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment and the live status of its guests.

    ``differences`` lists what has changed since the testbed was brought up, in words, ``differing`` the same
    with what each is of.
    """

    __test__ = False  # not a test, whatever its name

    deployment: Deployment
    guests: tuple[GuestStatus, ...]
    differences: tuple[str, ...] = ()
    differing: tuple[StatusDifference, ...] = ()


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life of the server. ``drivers`` is ``real`` or ``fake``.

    An ``embedded`` server exits by itself when no command needs it any more.
    """

    version: str
    drivers: str
    embedded: bool
    pid: int


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error of the API (RFC 9457, ``application/problem+json``). ``hint`` says how to fix it."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    hint: str | None = None
