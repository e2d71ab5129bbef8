"""What happens during a build, as values. Somebody else decides how to show them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvmcompose.core.errors import KvmComposeError, Problem


class Started(msgspec.Struct, frozen=True):
    """A build begins; ``total`` is how many files it is going to touch."""

    total: int


class Done(msgspec.Struct, frozen=True):
    """A file was dealt with; ``action`` is what was done with it and ``reasons`` why."""

    path: str
    task: str
    action: str
    reasons: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True):
    """A task failed."""

    task: str
    error: KvmComposeError


class Noticed(msgspec.Struct, frozen=True):
    """Something the user should know, which stops nothing."""

    message: str
    problem: Problem | None = None


class Transferred(msgspec.Struct, frozen=True):
    """How far a download has come, in bytes; ``total`` is None when nobody knows."""

    label: str
    done: int
    total: int | None


class Finished(msgspec.Struct, frozen=True):
    """A build has ended: how many files were made, removed, left as they were, failed, and not tried
    because of others that failed.
    """

    made: int
    removed: int
    kept: int
    failed: int
    untried: int


Event = Started | Done | Failed | Noticed | Transferred | Finished
Listener = Callable[[Event], None]
