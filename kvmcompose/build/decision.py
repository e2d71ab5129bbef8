"""Decisions: what a build does with each path, and why."""

from __future__ import annotations

from enum import Enum

import msgspec

from kvmcompose.core.artefact import Artefact, Policy
from kvmcompose.effects.stat_cache import Signature


class Disposition(Enum):
    """What a build does with one file."""

    CREATE = "create"
    REBUILD = "rebuild"
    KEEP = "keep"
    #: The same as what would be built, but unknown to the ledger: it is taken in as it is.
    ADOPT = "adopt"
    #: Edited by hand, and nothing it is made of has changed since.
    CUSTOMISED = "keep customised"
    #: Edited by hand, and what it is made of has changed: the user decides.
    CONFLICT = "conflict"
    #: A disk in use, whose recipe has changed: only --provision may give up its data.
    IN_USE = "refuse"
    #: Something is in the way that a build must not touch.
    BLOCKED = "blocked"
    REMOVE = "remove"
    #: Nobody needs it any more, but it was changed since it was built.
    LEFT_OVER = "left over"


#: What a build has nothing to do for.
SETTLED = frozenset({Disposition.KEEP, Disposition.ADOPT, Disposition.CUSTOMISED, Disposition.LEFT_OVER})
#: What a build cannot do, and fails for.
FAILING = frozenset({Disposition.CONFLICT, Disposition.IN_USE, Disposition.BLOCKED})


class Options(msgspec.Struct, frozen=True):
    """What the user allows: ``overwrite`` hand edits (kept as .orig), ``provision`` guests' data anew.

    With ``verify`` every file's content is looked at, not only what ``stat`` says of it.
    """

    overwrite: bool = False
    provision: bool = False
    verify: bool = False


class Decision(msgspec.Struct, frozen=True):
    """What to do with one path. ``reasons`` are for the user.

    ``seen`` is what was there when something was found to do; None for nothing, or when nothing is.
    """

    path: str
    task: str
    policy: Policy
    action: Disposition
    reasons: tuple[str, ...]
    seen: Signature | None = None

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do."""
        return self.action in SETTLED


class Making(Decision, frozen=True, kw_only=True):
    """What to do with an artefact that is wanted.

    ``aside`` says that the file that is there must be kept under another name.
    """

    artefact: Artefact
    aside: bool = False
