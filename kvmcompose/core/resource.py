"""Resources: what a testbed needs on its hosts, what exists there, and what would have to change.

A resource is data. Guest types and network dialects describe the wanted ones (``Resource``), a provider
observes those that exist (``Found``) and compares the two. The result is a list of ``Change``, each with its
reasons. Nothing in this module can carry one out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Ref(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identifies a resource. ``name`` is unique within ``kind`` and ``host``.

    ``kind`` names its provider. ``host`` is empty for a resource of the testbed as a whole.
    """

    kind: str
    name: str
    host: str = ""

    def __str__(self) -> str:
        """Return the reference for a message."""
        return f"{self.kind} {self.name}" + (f" on {self.host}" if self.host else "")


class Resource(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A wanted resource.

    ``spec`` is all that it should be, in a type of its provider. The resources in ``needs`` must exist before
    it does. ``guest`` is the guest that it belongs to. Those in ``after`` come before it, too, if they are
    to come; but what becomes of them later is nothing to it.
    """

    ref: Ref
    spec: Any
    needs: tuple[Ref, ...] = ()
    guest: str | None = None
    after: tuple[Ref, ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A resource of the project that exists.

    ``spec`` is what it was made from, as far as that is known. ``state`` is a term of its provider
    (``running``, ``paused``), ``detail`` what else the provider needs to compare or to remove it. It goes
    before those in ``after``.
    """

    ref: Ref
    spec: Any = None
    state: str = ""
    guest: str | None = None
    detail: Any = None
    after: tuple[Ref, ...] = ()


class Verb(StrEnum):
    """What a change does to a resource."""

    CREATE = "create"
    #: While it is in use.
    UPDATE = "update"
    #: A guest is shut down and started.
    RESTART = "restart"
    #: Another one takes its place.
    REPLACE = "replace"
    #: To another host.
    MOVE = "move"
    REMOVE = "remove"
    #: Something was changed outside of kvm-compose.
    REPAIR = "repair"


#: A change of one of these begins with taking the existing resource away.
STOPPING = frozenset({Verb.RESTART, Verb.REPLACE, Verb.MOVE, Verb.REMOVE})


class ReasonCode(StrEnum):
    """Why a resource has to change. ``kvmcompose.reconcile.wording`` has the words for each."""

    #: It is described, and was not before.
    NEW = "new"
    #: It is no longer described.
    UNWANTED = "unwanted"
    #: It was brought up, and is gone.
    MISSING = "missing"
    #: ``subject`` changed from ``before`` to ``after``.
    CHANGED = "changed"
    #: ``subject`` was added, or removed.
    ADDED = "added"
    REMOVED = "removed"
    #: The artefact ``subject`` was edited by hand.
    EDITED = "edited"
    #: Its state is ``before``, it should be ``after``; ``subject`` is why, in the terms of its provider.
    STATE = "state"
    #: ``subject``, which it needs, changes.
    NEEDED = "needed"
    #: kvm-compose describes it in another way than the version that made it.
    FORMAT = "format"
    #: The user asked for it, with the command ``subject``.
    ASKED = "asked"
    #: The content of ``subject`` is no longer what ran.
    OUTDATED = "outdated"


class Reason(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A reason for a change. ``subject`` is a term of the YAML (``memory_mb``, ``environment GREETING``)."""

    code: ReasonCode
    subject: str = ""
    before: str | None = None
    after: str | None = None


class Loss(StrEnum):
    """Which data is lost with a change. ``kvmcompose.reconcile.wording`` has the words for each."""

    #: What the guest wrote to its disk.
    DISK = "disk"
    #: What a container wrote outside of its volumes.
    OWN_FILES = "own-files"
    #: The state of its TPM, which stays on the host that it leaves.
    TPM = "tpm"


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change to one resource. ``wanted`` is None for a removal, ``found`` for a creation.

    A ``pending`` change is carried out only when the user asks for it: nothing that the user edited needs it.
    ``loss`` is what its provider says; None for no data.
    """

    verb: Verb
    ref: Ref
    reasons: tuple[Reason, ...] = ()
    wanted: Resource | None = None
    found: Found | None = None
    pending: bool = False
    loss: Loss | None = None

    @property
    def guest(self) -> str | None:
        """The guest that the resource belongs to."""
        return next(
            (each.guest for each in (self.wanted, self.found) if each is not None and each.guest), None
        )
