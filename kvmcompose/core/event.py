"""Events of a build, as values. ``kvmcompose.monitor`` decides how to show them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvmcompose.core.errors import KvmComposeError, Problem


class Started(msgspec.Struct, frozen=True):
    """A build begins; ``total`` is the number of files that it will write or remove."""

    total: int


class Done(msgspec.Struct, frozen=True):
    """A file is finished; ``action`` is what the build did with it, ``reasons`` why."""

    path: str
    task: str
    action: str
    reasons: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True):
    """A task failed."""

    task: str
    error: KvmComposeError


class Noticed(msgspec.Struct, frozen=True):
    """A warning or a note to the user. The build continues."""

    message: str
    problem: Problem | None = None


class Transferred(msgspec.Struct, frozen=True):
    """The progress of a download, in bytes; ``total`` is None when it is unknown."""

    label: str
    done: int
    total: int | None


class Finished(msgspec.Struct, frozen=True):
    """A build has ended: how many files were made, removed, kept and failed.

    ``untried`` counts those that were not made because files that they depend on failed.
    """

    made: int
    removed: int
    kept: int
    failed: int
    untried: int


Event = Started | Done | Failed | Noticed | Transferred | Finished
Listener = Callable[[Event], None]
