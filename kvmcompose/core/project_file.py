"""The types of the API for a project: its YAML, and what the command line does with it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kvmcompose.core.commands import Up
from kvmcompose.core.errors import Problem
from kvmcompose.core.planned import PlanDocument, Sha256

#: The largest YAML that the API sends and accepts, in bytes.
LARGEST_FILE = 2 << 20

_Text = Annotated[str, msgspec.Meta(max_length=LARGEST_FILE)]


class CheckedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What ``validate`` says of a YAML: ``valid`` without errors. ``problems`` has warnings, too."""

    valid: bool
    problems: tuple[Problem, ...]


class ProjectFile(msgspec.Struct, frozen=True, kw_only=True):
    """The YAML of a project, and what ``validate`` says of it.

    ``path`` is where it is on the server's machine, ``digest`` the SHA-256 of its bytes. Both ``text`` and
    ``digest`` are null for a file that cannot be shown; ``unread`` says why.
    """

    path: str
    text: str | None
    digest: str | None
    unread: str | None
    valid: bool
    problems: tuple[Problem, ...]


class NewText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text of the YAML that is not saved."""

    text: _Text


class SavedText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text to save. ``digest`` is that of the file that was read and edited."""

    text: _Text
    digest: Sha256


class ProjectOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to plan: the ``options`` of ``up``, and whether guests may change their host or address."""

    options: Up = Up()
    allow_moves: bool = False
    diff: bool = False


class ProjectUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Build a project and bring it up.

    With ``plan`` exactly that is carried out, or nothing if something has changed since; its options apply
    and others but ``keep_going`` are refused. ``consent`` are the digests of lists that the user has
    consented to.
    """

    options: Up = Up()
    allow_moves: bool = False
    plan: PlanDocument | None = None
    consent: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=16)] = ()
