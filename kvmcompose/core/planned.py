"""The types of ``POST /api/deployments/{name}/plan``: what ``up`` would change on hosts, and why.

They are the API's JSON, and that of ``kvm-compose plan --json``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kvmcompose.core.commands import Up
from kvmcompose.core.consent import ConsentRequest
from kvmcompose.core.deployment import Deployment
from kvmcompose.core.resource import Reason, Verb
from kvmcompose.core.seed import SeedContents

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


#: A document that is left as it is: it is checked as a whole, later.
_NULL = msgspec.Raw(b"null")


class FileToMake(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An artefact that the build has to make before ``up``.

    ``text`` is the content of an XML file. ``digest`` is the SHA-256 of another file, as far as it is known;
    without one the file counts as changed. ``size`` is in bytes, without holes. ``backing`` is the backing
    file of a disk, as the disk names it; ``grows_to`` the size in bytes, as its guest sees it, of one that
    differs from the existing one in its size alone. ``link``: it is a link to an image. ``seed`` is what
    is in a seed.
    """

    text: str | None = None
    digest: Sha256 | None = None
    size: _Size = 0
    backing: str | None = None
    grows_to: _Size | None = None
    link: bool = False
    seed: SeedContents | None = None


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A testbed that is not built yet, or not completely.

    ``state`` is the ``state.json`` that the build would write, null where that in the project folder is up
    to date. ``files`` are the artefacts that the build would make, by path; all others are as they are in the
    folder. ``options`` are those of ``up``.
    """

    options: Up = Up()
    state: msgspec.Raw
    files: dict[str, FileToMake] = {}

    @property
    def document(self) -> bytes | None:
        """The bytes of that ``state.json``."""
        return None if bytes(self.state) == bytes(_NULL) else bytes(self.state)


class PlannedChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change to one resource on a host.

    ``kind`` is the kind of the resource, ``subject`` what it is called in messages. ``pending``: ``up`` with
    these options leaves it; ``waits_for`` is the option with which it does not. ``follows``: it is needed
    because of another change. ``because`` are the ``reasons`` in words. ``touches`` are other guests that
    notice it. ``loses`` says which data is lost, null for none.
    """

    verb: Verb
    kind: str
    name: str
    host: str
    guest: str | None
    subject: str
    pending: bool
    follows: bool
    reasons: tuple[Reason, ...]
    because: tuple[str, ...]
    touches: tuple[str, ...] = ()
    waits_for: str | None = None
    loses: str | None = None


class PlannedRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why ``up`` would be refused, before it changes anything. ``hint`` says how to fix it."""

    message: str
    hint: str | None = None


class PlannedHost(msgspec.Struct, frozen=True, kw_only=True):
    """What the testbed uses of a host, before and after.

    ``memory_mb`` and ``cpus`` are what the host has, None where it does not respond; memory is in MiB.
    ``boots`` is the number of guests that start. ``bytes_to_send`` are of files that it lacks, and of disks
    that move there or through it, where their size is known. ``disk_bytes`` is the room that these take for
    good, ``disk_free`` what the host has, None where it does not respond.
    """

    name: str
    memory_mb: int | None
    cpus: int | None
    memory_mb_before: int
    memory_mb_after: int
    cpus_before: int
    cpus_after: int
    boots: int
    bytes_to_send: int
    disk_bytes: int = 0
    disk_free: int | None = None


class TestbedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What ``up`` would change on hosts.

    ``changes`` are in the order in which they are carried out; removals are last, but are carried out first.
    ``seconds`` is about how long guests take to stop and start, by what it took them before; None where
    nothing is known of that. ``digest`` identifies the changes: it is the same for the same changes, for the
    same reasons. ``unseen`` are hosts that did not answer, or whose container engine did not: what would
    change there is not known.
    """

    __test__ = False  # not a test, whatever its name

    deployment: Deployment
    changes: tuple[PlannedChange, ...]
    refusals: tuple[PlannedRefusal, ...]
    warnings: tuple[str, ...]
    hosts: tuple[PlannedHost, ...]
    seconds: float | None
    unseen: tuple[str, ...] = ()
    digest: str

    @property
    def due(self) -> tuple[PlannedChange, ...]:
        """The changes that ``up`` carries out."""
        return tuple(each for each in self.changes if not each.pending)


class PlannedFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a build would do with a file: ``keep``, ``create``, ``rebuild``, ``remove``, ``conflict`` …

    ``task`` makes the file. ``diff`` is a unified diff of a text.
    """

    action: str
    path: str
    task: str
    reasons: tuple[str, ...]
    diff: str | None = None


class PlanDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A plan, as ``kvm-compose plan --json`` prints it and ``plan --out`` stores it.

    ``options`` and ``allow_moves`` are those that it was made with. ``recipes`` is a digest of all that the
    files are made of. ``testbed`` is null where what runs cannot be seen; ``unseen`` says why. ``consent`` is
    what ``up`` would ask the user's consent for, as far as that is known before the build.
    """

    version: int
    project: str
    options: Up
    allow_moves: bool
    recipes: str
    files: tuple[PlannedFile, ...]
    testbed: TestbedPlan | None
    unseen: str | None = None
    consent: ConsentRequest | None = None


#: Of a plan that is stored. Others are refused.
PLAN_VERSION = 1
