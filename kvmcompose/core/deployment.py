"""What the server and its clients tell each other: deployments, actions, their log, live status.

These nouns are the API's JSON (see ``kvmcompose.server.api``): the server encodes them, clients decode
them, the OpenAPI document is made from them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

#: What a deployment, a guest and a snapshot may be called on the wire. ``$`` alone would let a line break
#: follow, in Python; what stands here means the same to it and to JSON Schema (ECMA 262).
PROJECT_PATTERN = r"^[a-z]([a-z0-9-]{0,39}[a-z0-9])?$(?!\n)"
GUEST_PATTERN = r"^[a-z][a-z0-9-]{0,62}$(?!\n)"
HOST_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$(?!\n)"
SNAPSHOT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$(?!\n)"
#: What is captured: a guest, one of its interfaces, a bridge. The expression travels in an address.
TARGET_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$(?!\n)"
FILTER_PATTERN = r"^[ -~]{1,1024}$(?!\n)"
#: The most that tcpdump takes: bytes of a packet (its default), and packets.
MAX_SNAPLEN = 262144
MAX_PACKETS = 2**31 - 1

ProjectName = Annotated[str, msgspec.Meta(pattern=PROJECT_PATTERN)]
GuestName = Annotated[str, msgspec.Meta(pattern=GUEST_PATTERN)]
HostName = Annotated[str, msgspec.Meta(pattern=HOST_PATTERN)]
SnapshotName = Annotated[str, msgspec.Meta(pattern=SNAPSHOT_PATTERN)]
#: A word of a command that is run in a guest; no NUL can be in one.
Word = Annotated[str, msgspec.Meta(max_length=65536, pattern=r"^[^\x00]*$")]


class Phase(StrEnum):
    """Where a deployment is in its life; ``FAILED`` goes with the command that failed."""

    DOWN = "down"
    RUNNING = "running"
    UP = "up"
    FAILED = "failed"


class Up(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="up", forbid_unknown_fields=True
):
    """Bring the testbed up.

    ``rerun_scripts``: run setup scripts again that have run in the guests' lives. ``reset_clones``: make
    clones anew, losing what they wrote, when their golden image has changed. ``keep_going``: when a guest
    fails, go on with the others to the end. ``provision``: make disks on other hosts anew, losing what guests
    wrote; on the main host the build makes disks.
    """

    rerun_scripts: bool = False
    reset_clones: bool = False
    keep_going: bool = False
    provision: bool = False


class Down(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="down", forbid_unknown_fields=True
):
    """Take the testbed down. ``purge``: remove the guests' disks too. ``timeout``: seconds that a guest has
    to shut down before it is switched off. ``abandon``: hosts that are gone for good, and not asked.
    """

    purge: bool = False
    timeout: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60
    abandon: Annotated[tuple[HostName, ...], msgspec.Meta(max_length=1000)] = ()


class Exec(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="exec", forbid_unknown_fields=True
):
    """Run a command in a guest. ``timeout`` in seconds."""

    guest: GuestName
    argv: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=1024)]
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86400)] | None = None


class SnapshotVerb(StrEnum):
    """What can be done with a snapshot."""

    CREATE = "create"
    RESTORE = "restore"
    DELETE = "delete"


class Snapshot(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="snapshot", forbid_unknown_fields=True
):
    """Make, restore or delete a snapshot of some guests (all when ``guests`` is empty)."""

    verb: SnapshotVerb
    name: SnapshotName
    guests: tuple[GuestName, ...] = ()


Command = Up | Down | Exec | Snapshot


def command_name(command: Command) -> str:
    """The word that stands for a command: ``up``, ``down``, ``exec``, ``snapshot``."""
    return str(type(command).__struct_config__.tag)


class NewDeployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A project folder to be known under a name."""

    name: ProjectName
    project_location: Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A project that the server knows. ``failed_command`` is given when ``state`` is ``failed``.

    ``owner`` is the user who made it known. Others see that much of it: no folder (``project_location`` is
    empty), no command, no action.
    """

    name: str
    project_location: str
    state: Phase
    failed_command: str | None = None
    last_action_uuid: str | None = None
    owner: str | None = None


class ActionState(StrEnum):
    """How far an action has come. ``INTERRUPTED``: the server died while it ran."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong in one step of an action, and what would mend it."""

    step: str
    message: str
    guest: str | None = None
    host: str | None = None
    hint: str | None = None


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was asked of a deployment, and how it went. Times as RFC 3339, UTC.

    ``refused`` tells of a failed action that nothing was changed. ``exit_status`` is that of the command
    of an ``exec``. ``asked_by`` is the user who asked, ``who`` what they call themselves.
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
    """How far a step has come. ``SKIPPED``: there was nothing to do."""

    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an action. Times as RFC 3339, UTC; ``stage`` is the group it belongs to."""

    name: str
    stage: str
    state: StepState
    started: str
    ended: str | None = None
    guest: str | None = None
    host: str | None = None


class Level(StrEnum):
    """What kind of line it is. ``OUTPUT``: what a script or a console printed."""

    INFO = "info"
    OUTPUT = "output"
    WARNING = "warning"
    ERROR = "error"


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of an action's log. ``sequence`` counts from 1 within the action; ``time`` as RFC 3339."""

    sequence: int
    time: str
    level: Level
    text: str
    stage: str | None = None
    step: str | None = None
    guest: str | None = None
    host: str | None = None


class ActionAccepted(msgspec.Struct, frozen=True):
    """The answer to a command: by this the action is known."""

    uuid: str


class GuestStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A guest as it is now.

    ``state`` is libvirt's word (``running``, ``shut off``, ``paused``, ``crashed``), ``absent`` when its
    host does not know it, ``unknown`` when its host does not answer, ``golden`` for a golden image that is
    off, ``unsupported`` for a kind that cannot run yet. ``uptime`` in seconds, ``cpu`` as a share of one
    CPU (1.0 is one CPU busy) since the last look, ``memory_mb`` resident on the host, in MiB.
    """

    name: str
    kind: str
    host: str
    state: str
    address: str | None = None
    golden_image: str | None = None
    uptime: float | None = None
    cpu: float | None = None
    memory_mb: int | None = None


#: What ends in command lines of ssh, scp and virsh, and in files that they read: a server may be hostile.
#: ``/`` begins every path, nothing begins with ``-``, and nothing goes on in another line.
ADDRESS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,254}$(?!\n)"
USER_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$(?!\n)"
PATH_PATTERN = r"^/[^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,4095}$(?!\n)"
KEY_PATTERN = r"^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+={0,2}$(?!\n)"
URI_PATTERN = r"^[a-z][!-~]{0,1023}$(?!\n)"

Address = Annotated[str, msgspec.Meta(pattern=ADDRESS_PATTERN)]
UserName = Annotated[str, msgspec.Meta(pattern=USER_PATTERN)]
PathThere = Annotated[str, msgspec.Meta(pattern=PATH_PATTERN)]
HostKey = Annotated[str, msgspec.Meta(pattern=KEY_PATTERN, max_length=4096)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class HostAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How a testbed host is reached from the main host by SSH. Paths are on the server's machine."""

    address: Address
    user: UserName | None = None
    port: Port | None = None
    identity_file: PathThere | None = None
    host_key: HostKey | None = None


class GuestAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How a guest is reached from the main host: by SSH and through libvirt.

    Paths are on the server's machine. ``address`` is None for a guest that no connection leads to. With
    ``via`` it lies on another host than the main host: ``libvirt_uri`` is as seen from there.
    """

    name: GuestName
    host: HostName
    domain: GuestName
    libvirt_uri: Annotated[str, msgspec.Meta(pattern=URI_PATTERN)]
    user: UserName | None
    address: Address | None
    port: Port = 22
    identity_file: PathThere | None = None
    known_hosts: PathThere | None = None
    host_key_alias: GuestName | None = None
    groups: tuple[GuestName, ...] = ()
    via: HostAccess | None = None


class SnapshotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a guest. ``created`` as RFC 3339; ``state`` is the guest's at that time."""

    guest: str
    name: str
    created: str
    state: str
    current: bool = False


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """Which packets to capture.

    ``target`` is a guest, a bridge or the NAT network; ``interface`` a guest's, by number (from 0) or by the
    bridge it is on. ``filter`` as pcap-filter(7) has it. ``snaplen`` bytes of each packet are kept; after
    ``count`` packets the capture ends.
    """

    target: Annotated[str, msgspec.Meta(pattern=TARGET_PATTERN)]
    interface: Annotated[str, msgspec.Meta(pattern=TARGET_PATTERN)] | None = None
    filter: Annotated[str, msgspec.Meta(pattern=FILTER_PATTERN)] | None = None
    snaplen: Annotated[int, msgspec.Meta(ge=1, le=MAX_SNAPLEN)] = MAX_SNAPLEN
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_PACKETS)] | None = None


class TestbedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment and its guests as they are now. ``differences``: what is not as it was brought up."""

    __test__ = False  # not a test, whatever its name

    deployment: Deployment
    guests: tuple[GuestStatus, ...]
    differences: tuple[str, ...] = ()


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """That the server is there. ``drivers`` is ``real`` or ``fake``, ``embedded`` that it goes by itself."""

    version: str
    drivers: str
    embedded: bool
    pid: int


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error of the API (RFC 9457, ``application/problem+json``). ``hint`` tells what would mend it."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    hint: str | None = None
