"""Guest types: one module each, found by its file name and listed nowhere.

A module stands for a *kind* of guest and offers:

``Definition``                    the type of its section in the YAML (a msgspec Struct; unknown keys are
                                  dropped, as the network dialect reads some of them)
``SECTION``                       the key of that section, when it is not the module's own name
``expand(machine)``               the guests a machine stands for
``check(machine, files)``         the complaints about what a schema cannot say, with paths in the machine
``complete(guest, files)``        the guest with what only its files tell (a digest of one); may be left out
``artefacts(guest, shared)``      the files to be made for one guest
``deployable(guest, shared)``     how it is run, from the state as read back; None, or left out, for a kind
                                  that cannot run
``privileges(guest, shared)``     what it does to its host beyond its XML, likewise; may be left out

Modules whose names start with ``_`` are shared between kinds. A kind whose section
is checked by ``schemas/guests/<kind>.json`` may stand in the YAML; one without a schema (``clone``) comes
out of another kind's ``expand``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any, Protocol, cast

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.errors import Complaint, KvmComposeError
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.privilege import Privilege
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, Shared


class GuestKind(Protocol):
    """What a module in this package offers; see above."""

    Definition: type[msgspec.Struct]
    SECTION: str

    def expand(self, machine: Machine) -> Iterable[Guest]:
        """The guests a machine stands for, in order."""

    def check(self, machine: Machine, files: ProjectFiles) -> Iterable[Complaint]:
        """What is wrong with the machine that a schema cannot say."""

    def complete(self, guest: Guest, files: ProjectFiles) -> Guest:
        """A guest of this kind of machine with what only its files tell."""

    def artefacts(self, guest: GuestState, shared: Shared) -> Iterable[Artefact]:
        """The files to be made for one guest."""

    def deployable(self, guest: GuestState, shared: Shared) -> DomainGuest | None:
        """How the guest is run; its ``definition`` is plain data. None when this kind cannot run yet."""

    def privileges(self, guest: GuestState, shared: Shared) -> Iterable[Privilege]:
        """What the guest does to its host beyond its XML; its ``definition`` is plain data."""


@cache
def kinds() -> tuple[str, ...]:
    """The names of all guest types there are."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@cache
def guest_kind(name: str) -> GuestKind:
    """The module of a guest type. Raises KvmComposeError when there is none of that name."""
    if name not in kinds():
        raise KvmComposeError(f"there is no guest type {name!r}", hint=f"there are: {', '.join(kinds())}")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    if not hasattr(module, "SECTION"):
        module.SECTION = name
    if not hasattr(module, "complete"):
        module.complete = _complete
    if not hasattr(module, "deployable"):
        module.deployable = _cannot_run
    if not hasattr(module, "privileges"):
        module.privileges = _asks_nothing
    return cast(GuestKind, module)


def _complete(guest: Guest, _files: ProjectFiles) -> Guest:
    """For a kind of which files tell nothing."""
    return guest


def _asks_nothing(_guest: GuestState, _shared: Shared) -> tuple[Privilege, ...]:
    """For a kind that does nothing to its host."""
    return ()


def _cannot_run(_guest: GuestState, _shared: Shared) -> None:
    """For a kind that says nothing about it."""
