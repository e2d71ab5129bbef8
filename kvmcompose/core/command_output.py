"""What a command prints as lines of JSON: events of its build, messages, and the action that it started.

``up --detach --json --message-format json`` prints all of them; the API passes them on.
"""

from __future__ import annotations

import msgspec

from kvmcompose.core.consent import ConsentRequest
from kvmcompose.core.errors import Problem


class Message(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="message"
):
    """A message to the user. ``level`` is ``info``, ``warning`` or ``error``.

    ``status`` is the exit status of the command that an error ends. ``problem`` is one of the input.
    ``consent`` is what the command was refused for until the user consents to it.
    """

    level: str
    message: str
    hint: str | None = None
    status: int | None = None
    problem: Problem | None = None
    consent: ConsentRequest | None = None


class BuildStarted(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="started"):
    """A build begins; ``total`` is the number of files that it will write or remove."""

    total: int


class FileDone(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="done"):
    """A file is finished; ``action`` is what the build did with it, ``reasons`` why."""

    path: str
    task: str
    action: str
    reasons: tuple[str, ...] = ()


class TaskFailed(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="failed"
):
    """A task of the build failed."""

    task: str
    message: str
    hint: str | None = None


class BuildNoticed(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="noticed"
):
    """A warning or a note of the build, which continues."""

    message: str
    problem: Problem | None = None


class BytesTransferred(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="transferred"
):
    """The progress of a download, in bytes; ``total`` is null when it is unknown."""

    label: str
    done: int
    total: int | None = None


class BuildFinished(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="finished"):
    """A build has ended: how many files were made, removed, kept, failed, and not tried because of that."""

    made: int
    removed: int
    kept: int
    failed: int
    untried: int


class ActionBegun(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="action"):
    """The server has accepted the action, and carries it out."""

    uuid: str


class CommandEnded(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="ended"):
    """The command has ended: 0 success, 1 something failed, 2 invalid input, 3 refused before any change.

    ``status`` is null for a command that was killed.
    """

    status: int | None


CommandEvent = (
    Message
    | BuildStarted
    | FileDone
    | TaskFailed
    | BuildNoticed
    | BytesTransferred
    | BuildFinished
    | ActionBegun
    | CommandEnded
)
