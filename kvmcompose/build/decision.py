"""Decisions: what a build does with each path, and why."""

from __future__ import annotations

from enum import Enum

import msgspec

from kvmcompose.core.artefact import Artefact, Policy
from kvmcompose.effects.stat_cache import Signature


class Disposition(Enum):
    """The action of a build for one file."""

    CREATE = "create"
    REBUILD = "rebuild"
    #: A disk with data that becomes larger: it is changed in place, and keeps them.
    GROW = "grow"
    KEEP = "keep"
    #: Identical to what would be built, but unknown to the ledger: it is recorded as built.
    ADOPT = "adopt"
    #: Edited by hand, and its recipe is unchanged.
    CUSTOMISED = "keep customised"
    #: Edited by hand, and its recipe has changed: the user decides.
    CONFLICT = "conflict"
    #: A disk in use whose recipe has changed: only --provision discards its data.
    IN_USE = "refuse"
    #: Its place is taken by something that a build must not touch.
    BLOCKED = "blocked"
    REMOVE = "remove"
    #: No longer wanted, but changed since it was built.
    LEFT_OVER = "left over"


#: A build has nothing to do.
SETTLED = frozenset({Disposition.KEEP, Disposition.ADOPT, Disposition.CUSTOMISED, Disposition.LEFT_OVER})
#: A build fails.
FAILING = frozenset({Disposition.CONFLICT, Disposition.IN_USE, Disposition.BLOCKED})


class Options(msgspec.Struct, frozen=True):
    """What the user allows: ``overwrite`` hand edits (kept as .orig), ``provision`` new disks.

    With ``verify`` every file is read; otherwise an unchanged ``stat`` is trusted.
    """

    overwrite: bool = False
    provision: bool = False
    verify: bool = False


class Decision(msgspec.Struct, frozen=True):
    """What to do with one path. ``reasons`` are for the user.

    ``seen`` is the file that the decision is about; None if there is none, or nothing to do.
    """

    path: str
    task: str
    policy: Policy
    action: Disposition
    reasons: tuple[str, ...]
    seen: Signature | None = None

    @property
    def settled(self) -> bool:
        """Return whether no action is needed."""
        return self.action in SETTLED


class Making(Decision, frozen=True, kw_only=True):
    """The decision on an artefact that is wanted.

    With ``aside`` the existing file has to be kept under another name. ``size`` is that of a disk that
    grows, in bytes; None if only its record changes. A ``resized`` disk differs in its size alone from the
    existing one, so overlays on that can stay. ``hint`` goes with a refusal.
    """

    artefact: Artefact
    aside: bool = False
    size: int | None = None
    resized: bool = False
    hint: str | None = None
