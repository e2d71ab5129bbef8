"""Guest types: one module each, found by its file name and listed nowhere.

A module implements a *kind* of guest and offers:

``Definition``                    the type of its section in the YAML (a msgspec Struct; unknown keys are
                                  dropped, as the network dialect reads some of them)
``SECTION``                       the key of that section, when it is not the module's own name
``expand(machine)``               the guests that a machine defines
``check(machine, files)``         the problems that a schema cannot express, with paths in the machine
``check_together(machines)``      the problems of all machines of this kind beside each other, likewise, with
                                  paths in the YAML; optional
``complete(guest, files)``        the guest with data from its files, such as a digest; optional
``check_interfaces(…)``           the problems that only a guest's names and addresses show; optional
``artefacts(guest, shared)``      the files to make for one guest
``deployable(guest, shared)``     how to run it, from the state as read back; None, or left out, for a kind
                                  that cannot run
``resources(guest, shared)``      what must exist on hosts for it, where libvirt does not run it; optional
``HAS_DHCP_CLIENT``               False where nothing in guests of this kind asks for an address; optional
``can_be_entered(guest)``         whether commands can run in a guest of the testbed; without it, they can
``says_when_ready(guest)``        whether ``up`` waits for a guest that it started; without it, as that
``privileges(guest, shared)``     what it reaches on its host beyond its XML, likewise; optional

Modules whose names start with ``_`` are shared between kinds. The YAML can use a kind that has a schema,
``schemas/guests/<kind>.json``; one without (``clone``) is a result of another kind's ``expand``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Protocol, cast

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import DeployableGuest
from kvmcompose.core.errors import Complaint, KvmComposeError
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.plug_ins import with_defaults
from kvmcompose.core.privilege import Privilege
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.resource import Resource
from kvmcompose.core.state import GuestState, Interface, Shared


class GuestKind(Protocol):
    """What a module in this package offers; see above."""

    Definition: type[msgspec.Struct]
    SECTION: str

    #: Something in guests of this kind can ask for addresses.
    HAS_DHCP_CLIENT: bool

    def expand(self, machine: Machine) -> Iterable[Guest]:
        """Return the guests that a machine defines, in order."""

    def check(self, machine: Machine, files: ProjectFiles) -> Iterable[Complaint]:
        """Yield the problems of the machine that a schema cannot express."""

    def check_together(self, machines: Sequence[Machine]) -> Iterable[Complaint]:
        """Yield the problems that machines of this kind have only beside each other."""

    def complete(self, guest: Guest, files: ProjectFiles) -> Guest:
        """Return a guest of a machine of this kind, with data from its files."""

    def check_interfaces(
        self, guest: Guest, interfaces: Sequence[Interface], files: ProjectFiles
    ) -> Iterable[Complaint]:
        """Yield the problems that a guest's interfaces show, with paths in the YAML."""

    def can_be_entered(self, guest: Guest) -> bool:
        """Return whether commands can run in the guest."""

    def says_when_ready(self, guest: Guest) -> bool:
        """Return whether it can be noticed that the guest is ready after its start."""

    def artefacts(self, guest: GuestState, shared: Shared) -> Iterable[Artefact]:
        """Yield the files to make for one guest."""

    def deployable(self, guest: GuestState, shared: Shared) -> DeployableGuest | None:
        """Return how to run the guest, None if nothing of it runs. ``definition`` is plain data."""

    def resources(self, guest: GuestState, shared: Shared) -> Iterable[Resource]:
        """Yield what must exist on hosts for the guest. ``definition`` is plain data."""

    def privileges(self, guest: GuestState, shared: Shared) -> Iterable[Privilege]:
        """Yield what the guest reaches on its host beyond its XML. ``definition`` is plain data."""


@cache
def kinds() -> tuple[str, ...]:
    """Return the names of all guest types, plug-ins included."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@cache
def guest_kind(name: str) -> GuestKind:
    """Return the module of a guest type. Raises KvmComposeError when the name is unknown."""
    if name not in kinds():
        raise KvmComposeError(f"there is no guest type {name!r}", hint=f"there are: {', '.join(kinds())}")
    module = importlib.import_module(f"{__name__}.{name}")
    defaults = {
        "says_when_ready": getattr(module, "can_be_entered", _yes),
        "SECTION": name,
        "HAS_DHCP_CLIENT": True,
        "check_together": _nothing_together,
        "complete": _complete,
        "check_interfaces": _no_complaints,
        "can_be_entered": _yes,
        "deployable": _cannot_run,
        "resources": _no_resources,
        "privileges": _no_privileges,
    }
    return cast(GuestKind, with_defaults(module, defaults))


def _nothing_together(_machines: Sequence[Machine]) -> tuple[Complaint, ...]:
    """Return no problems: the default for a kind without ``check_together``."""
    return ()


def _complete(guest: Guest, _files: ProjectFiles) -> Guest:
    """Return the guest unchanged: the default for a kind without ``complete``."""
    return guest


def _no_complaints(
    _guest: Guest, _interfaces: Sequence[Interface], _files: ProjectFiles
) -> tuple[Complaint, ...]:
    """Return no problems: the default for a kind without ``check_interfaces``."""
    return ()


def _yes(_guest: Guest) -> bool:
    """Return True: the default for a kind without ``can_be_entered``."""
    return True


def _no_privileges(_guest: GuestState, _shared: Shared) -> tuple[Privilege, ...]:
    """Return no privileges: the default for a kind without ``privileges``."""
    return ()


def _no_resources(_guest: GuestState, _shared: Shared) -> tuple[Resource, ...]:
    """Return no resources: the default for a kind that libvirt runs, or that cannot run."""
    return ()


def _cannot_run(_guest: GuestState, _shared: Shared) -> None:
    """Return None: the default for a kind without ``deployable``."""
