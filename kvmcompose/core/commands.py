"""The commands of a deployment, and what names in requests look like.

They are the API's JSON, as the types of ``kvmcompose.core.deployment``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from kvmcompose.core.probe import MOST_QUESTIONS, TRAFFIC_PATTERN, Question

#: The names of deployments, guests, hosts and snapshots that the API accepts. In Python, ``$`` alone would
#: also match before a final line break; ``$(?!\n)`` means the same there and in JSON Schema (ECMA 262).
PROJECT_PATTERN = r"^[a-z]([a-z0-9-]{0,39}[a-z0-9])?$(?!\n)"
GUEST_PATTERN = r"^[a-z][a-z0-9-]{0,62}$(?!\n)"
HOST_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$(?!\n)"
#: Printable characters of any script, at most 63. libvirt stores a snapshot in a file of that name, and
#: accepts neither a slash nor a dot at the start; QEMU's monitor loses double quotes and backslashes. Also
#: excluded: control characters, characters that change the direction of text, spaces at the ends, and a
#: hyphen at the start.
_HIDDEN = r"\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
_SPACES = r"\u0020\u00a0\u2000-\u200d\u202f\u205f-\u2065\u206a-\u206f\u3000"
SNAPSHOT_PATTERN = rf'^[^{_HIDDEN}{_SPACES}/"\\.-]([^{_HIDDEN}/"\\]{{0,61}}[^{_HIDDEN}{_SPACES}/"\\])?$(?!\n)'
#: What to capture: a guest, one of its interfaces, a bridge, a logical switch or port, whose name may consist
#: of those of project, switch and guest. Both patterns are for query parameters of a URL.
TARGET_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,190}$(?!\n)"
FILTER_PATTERN = r"^[ -~]{1,1024}$(?!\n)"
#: The limits of tcpdump(8): bytes of a packet (also its default), and packets.
MAX_SNAPLEN = 262144
MAX_PACKETS = 2**31 - 1

ProjectName = Annotated[str, msgspec.Meta(pattern=PROJECT_PATTERN)]
GuestName = Annotated[str, msgspec.Meta(pattern=GUEST_PATTERN)]
HostName = Annotated[str, msgspec.Meta(pattern=HOST_PATTERN)]
SnapshotName = Annotated[str, msgspec.Meta(pattern=SNAPSHOT_PATTERN)]
USER_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$(?!\n)"
UserName = Annotated[str, msgspec.Meta(pattern=USER_PATTERN)]
#: The input of a command: bytes in a message, and bytes that may be on their way to the command.
INPUT_CHUNK, INPUT_WINDOW = 4096, 1 << 18
#: An argument of a command that is run in a guest. Arguments cannot contain NUL (execve(2)).
ARGUMENT_PATTERN = r"^[^\x00]*$"
Argument = Annotated[str, msgspec.Meta(max_length=65536, pattern=ARGUMENT_PATTERN)]

SNAPSHOT_NAMES = (
    "the name of a snapshot: at most 63 printable characters, without slashes, backslashes and double quotes,"
    " and neither a dot nor a hyphen first"
)
#: What the patterns of a request mean, for messages.
_MEANINGS = {
    PROJECT_PATTERN: "the name of a project: at most 41 of a-z, 0-9 and hyphens, a letter first",
    GUEST_PATTERN: "the name of a guest: at most 63 of a-z, 0-9 and hyphens, a letter first",
    HOST_PATTERN: "the name of a host: at most 63 letters, digits, dots, underscores and hyphens",
    SNAPSHOT_PATTERN: SNAPSHOT_NAMES,
    TARGET_PATTERN: "the name of a guest, a bridge, a network, a logical switch or port",
    FILTER_PATTERN: "at most 1024 printable ASCII characters",
    ARGUMENT_PATTERN: "text without NUL characters",
    TRAFFIC_PATTERN: "icmp, tcp PORT or udp PORT",
}


def readable(error: msgspec.ValidationError) -> str:
    """Return the message of a request that could not be decoded, with words in place of patterns."""
    text = str(error)
    for pattern, meaning in _MEANINGS.items():
        text = text.replace(f"`str` matching regex {pattern!r}", meaning)
    return text


class Up(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="up", forbid_unknown_fields=True
):
    """Bring the testbed up.

    ``rerun_scripts``: run setup scripts again that have already run, as they are now; with ``rerun_guests``
    those of these guests alone. ``recreate``: give these guests an empty disk and set them up as new ones,
    losing what they wrote. ``reset_clones``: recreate clones whose
    golden image has changed, losing what they wrote. ``keep_going``: when a guest fails, continue with the
    others. ``provision``: recreate disks on other hosts, losing what guests wrote; on the main host the build
    makes disks. ``restart``: restart guests that only an upgrade of kvm-compose would have changed, too.
    ``no_repair``: leave what was changed outside of kvm-compose. ``no_restart``: leave
    changes for which a guest has to be off. ``guests``: change these guests alone, and what they need; none:
    all. Guests that these depend on are started, too, unless they run; not with ``provision``. A guest that
    ``stop`` or ``pause`` was used for is left, unless it is named or so started. ``abandon``: hosts that have
    left the testbed and no longer exist; they are not contacted, and their guests get new disks.
    ``expected``: the ``digest`` of a plan; refuse to change anything else than it says.
    """

    rerun_scripts: bool = False
    rerun_guests: tuple[GuestName, ...] = ()
    recreate: tuple[GuestName, ...] = ()
    reset_clones: bool = False
    keep_going: bool = False
    provision: bool = False
    restart: bool = False
    no_repair: bool = False
    no_restart: bool = False
    guests: tuple[GuestName, ...] = ()
    abandon: Annotated[tuple[HostName, ...], msgspec.Meta(max_length=1000)] = ()

    expected: Annotated[str, msgspec.Meta(max_length=64)] | msgspec.UnsetType = msgspec.UNSET

    def reruns(self, guest: str | None) -> bool:
        """Return whether the scripts of a guest are run again."""
        return guest in self.rerun_guests if self.rerun_guests else self.rerun_scripts


class PowerVerb(StrEnum):
    """What happens to guests. Until it is undone, ``up`` leaves guests that were stopped or paused."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    PAUSE = "pause"
    RESUME = "resume"


class Power(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="power", forbid_unknown_fields=True
):
    """Start, stop, restart, pause or resume some guests (all when ``guests`` is empty).

    ``timeout``: seconds that a guest has to shut down before it is powered off.
    """

    verb: PowerVerb
    guests: tuple[GuestName, ...] = ()
    timeout: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60


class Down(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="down", forbid_unknown_fields=True
):
    """Take the testbed down, or ``guests`` of it alone.

    ``purge``: remove the guests' disks too. ``timeout``: seconds that a guest has to shut down before it is
    powered off. ``abandon``: hosts that no longer exist; they are not contacted.
    """

    purge: bool = False
    timeout: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 60
    abandon: Annotated[tuple[HostName, ...], msgspec.Meta(max_length=1000)] = ()
    guests: tuple[GuestName, ...] = ()


class Exec(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="exec", forbid_unknown_fields=True
):
    """Run a command in a guest. ``timeout`` in seconds.

    ``stdin``: the client sends its standard input; without it there is none. ``user``: the user in the guest,
    by default the one that logs in. Both are left out of the JSON unless given, as older servers refuse them.
    """

    guest: GuestName
    argv: Annotated[tuple[Argument, ...], msgspec.Meta(min_length=1, max_length=1024)]
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86400)] | None = None
    stdin: bool | msgspec.UnsetType = msgspec.UNSET
    user: UserName | msgspec.UnsetType = msgspec.UNSET


class SnapshotVerb(StrEnum):
    """An operation on a snapshot."""

    CREATE = "create"
    RESTORE = "restore"
    DELETE = "delete"


class Snapshot(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="snapshot", forbid_unknown_fields=True
):
    """Create, restore or delete a snapshot of some guests (of all when ``guests`` is empty)."""

    verb: SnapshotVerb
    name: SnapshotName
    guests: tuple[GuestName, ...] = ()


class Test(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="test", forbid_unknown_fields=True
):
    """Ask running guests by packets which of them reach which; each answer is an event ``probed``.

    ``seconds`` is for how long a packet that nothing answers is sent again.
    """

    __test__ = False  # for pytest

    questions: Annotated[tuple[Question, ...], msgspec.Meta(min_length=1, max_length=MOST_QUESTIONS)]
    seconds: Annotated[float, msgspec.Meta(ge=1, le=60)] = 3


Command = Up | Down | Power | Exec | Snapshot | Test


class Reconnect(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", tag="reconnect"):
    """Put back interfaces that these guests have lost by a restart. A server gives it, no client does."""

    guests: tuple[GuestName, ...]


#: What actions do.
ActionCommand = Command | Reconnect


def spoken(command: str, options: Mapping[str, Any]) -> str:
    """Return what the command of an action is called on the command line: ``up``, ``stop``."""
    return str(options.get("verb", command)) if command == "power" else command


def command_name(command: ActionCommand) -> str:
    """Return the name of a command: ``up``, ``down``, ``exec``, ``snapshot``, the verb of a ``power``."""
    return str(command.verb) if isinstance(command, Power) else str(type(command).__struct_config__.tag)


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """Which packets to capture.

    ``target`` is a guest, a bridge or the NAT network. ``interface`` selects a guest's interface, by number
    (from 0) or by the bridge it is on. ``filter`` is an expression of pcap-filter(7). ``snaplen`` is how many
    bytes of each packet are kept. The capture ends after ``count`` packets.
    """

    target: Annotated[str, msgspec.Meta(pattern=TARGET_PATTERN)]
    interface: Annotated[str, msgspec.Meta(pattern=TARGET_PATTERN)] | None = None
    filter: Annotated[str, msgspec.Meta(pattern=FILTER_PATTERN)] | None = None
    snaplen: Annotated[int, msgspec.Meta(ge=1, le=MAX_SNAPLEN)] = MAX_SNAPLEN
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_PACKETS)] | None = None
