"""Kinds of resources: one module each, found by its file name and listed nowhere.

A module (also one in ``resources/`` of a plug-in folder) offers:

``KINDS``                         the kinds of resources that it is for
``AFTER``                         the kinds that must exist before these do; ``GUESTS``: those with ``RUNS``
``STAGE``                         the stage of the log that its steps are in
``wanted(testbed)``               the resources that a testbed needs; optional where all of them come from
                                  guest types (``resources``) and network dialects (``network_plan``)
``observe(view, host)``           those of the project that exist on a host in a few calls, for any number
``compare(wanted, found)``        the change to one that exists, None for none; pure, as its arguments
``apply(work, host, changes)``    makes resources what they should be; each call is whole or not begun
``remove(work, host, changes)``   takes them away, or makes room for a change
``refusals(work, changes)``       what is in the way, before anything is changed; optional
``settle(work, found)``           stores on resources what they were made from, if it is not there; optional
``BATCH``                         True: all changes on a host in one call; otherwise each has its own
``AT_ONCE``                       True: removals come with other changes, in one call of ``apply``; optional
``BEFOREHAND``                    True: made before anything is taken away; where one fails, nothing else
                                  is done. They need nothing; optional
``limit(work, host, removing)``   how many calls may run at a time on a host; optional
``AGAIN``                         the option of ``up`` that carries out changes that can wait; optional
``WAITS_FOR``                     that option as it is typed, for messages; optional
``asked(options, wanted)``        what the options of an ``up`` want to be done with one, and which; optional
``LOOKS_AT_FILES``                True: observing takes long, and is left out of ``status``; optional
``LOOKS_INSIDE``                  True: observing enters guests, and is left out where it is no use; optional
``LOST_WITH_NEEDS``               True: gone when what they need is stopped; optional
``RENEWS``                        True: what needs one is replaced when it is made again; optional
``ONLY_KNOWN``                    True: only observed, as what is in a guest; removing only forgets; optional
``RUNS``                          True: guests, which use memory and CPUs of their host; optional
``RECONNECTS``                    True: guests that lose their interfaces when others restart them; optional
``bytes_to_send(testbed, change)`` what a change sends to its host, beside files; reads files; optional
``boots(change)``                 whether a guest starts for a change; optional
``loses(change)``                 which data a change loses; optional, pure
``noticed_by(testbed, change)``   the guests that may lose packets by a change; optional, pure
``segment_of(project, change)``   the bridge, switch or router that a change is of, as the testbed names it;
                                  optional, pure

``view`` (``View``) looks at hosts, ``work`` (``Work``) changes them. What makes a plan is given the first
alone. Modules whose names start with ``_`` are shared between kinds.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from kvmcompose.core.plug_ins import with_defaults
from kvmcompose.core.resource import Change, Found, Loss, Resource
from kvmcompose.effects.resources import plugin_folders
from kvmcompose.reconcile.walk import in_order

if TYPE_CHECKING:
    from kvmcompose.core.commands import Up
    from kvmcompose.providers.drivers import HostDrivers
    from kvmcompose.reconcile.difference import Asked
    from kvmcompose.server.orchestrator.resources._view import View
    from kvmcompose.server.orchestrator.resources._work import Refusal, Work
    from kvmcompose.server.orchestrator.testbed import LoadedTestbed

# at import, as a runtime of a plug-in may import its provider
__path__.extend(str(each / "resources") for each in plugin_folders() if (each / "resources").is_dir())

#: In ``AFTER``: all kinds that are guests (``RUNS``).
GUESTS = "guests"


class Provider(Protocol):
    """What a module in this package offers; see above."""

    KINDS: Sequence[str]
    AFTER: Sequence[str]
    STAGE: str
    BATCH: bool
    AT_ONCE: bool
    BEFOREHAND: bool
    AGAIN: str
    WAITS_FOR: str
    LOOKS_AT_FILES: bool
    LOOKS_INSIDE: bool
    LOST_WITH_NEEDS: bool
    RENEWS: bool
    ONLY_KNOWN: bool
    RUNS: bool
    RECONNECTS: bool

    def wanted(self, testbed: LoadedTestbed) -> Iterable[Resource]:
        """Yield the resources that a testbed needs."""

    async def observe(self, view: View, host: HostDrivers) -> Iterable[Found]:
        """Return the project's resources of these kinds on a host. Raises DriverError."""

    def compare(self, wanted: Resource, found: Found) -> Change | None:
        """Return the change that makes a resource what it should be."""

    def asked(self, options: Up, wanted: Resource) -> Asked | None:
        """Return what is done with a resource whether it differs or not."""

    async def apply(self, work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
        """Make resources what they should be. Raises StepFailedError."""

    async def remove(self, work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
        """Take resources away, or make room for a change. Raises StepFailedError."""

    async def refusals(self, work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
        """Return what is in the way of changes, before anything is changed."""

    async def settle(self, work: Work, found: Sequence[Found]) -> None:
        """Store on resources what they were made from, where that is not there. Changes nothing else."""

    def limit(self, work: Work, host: str, *, removing: bool) -> int:
        """Return how many calls may run at a time on a host."""

    def bytes_to_send(self, testbed: LoadedTestbed, change: Change) -> int:
        """Return how much a change sends to its host, in bytes. Raises KvmComposeError."""

    def boots(self, change: Change) -> bool:
        """Return whether a guest starts for a change."""

    def loses(self, change: Change) -> Loss | None:
        """Return which data a change loses, None for none."""

    def noticed_by(self, testbed: LoadedTestbed, change: Change) -> Iterable[str]:
        """Return the guests that may lose packets by a change."""

    def segment_of(self, project: str, change: Change) -> str | None:
        """Return the name in the testbed of the bridge, switch or router that a change is of."""


@cache
def providers() -> Mapping[str, Provider]:
    """Return the provider of each kind of resources, in the order in which they come into being."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [_module(name) for name in names if not name.startswith("_")]
    by_kind = {kind: module for module in modules for kind in module.KINDS}
    guests = [kind for kind, module in by_kind.items() if module.RUNS]
    after = {kind: _before(kind, module, guests) for kind, module in by_kind.items()}
    return {kind: by_kind[kind] for kind in in_order(after)}


def _before(kind: str, module: Provider, guests: Sequence[str]) -> list[str]:
    """The kinds of one module come in the order in which it lists them."""
    kinds = list(module.KINDS)
    named = [each for name in module.AFTER for each in (guests if name == GUESTS else [name])]
    return [*named, *kinds[: kinds.index(kind)]]


def _module(name: str) -> Provider:
    module = importlib.import_module(f"{__name__}.{name}")
    defaults = {
        "BATCH": False,
        "AT_ONCE": False,
        "BEFOREHAND": False,
        "AGAIN": "",
        "WAITS_FOR": "",
        "LOOKS_AT_FILES": False,
        "LOOKS_INSIDE": False,
        "LOST_WITH_NEEDS": False,
        "RENEWS": False,
        "ONLY_KNOWN": False,
        "RUNS": False,
        "RECONNECTS": False,
        "wanted": _nothing_wanted,
        "asked": _nothing_asked,
        "refusals": _nothing_in_the_way,
        "settle": _nothing_to_settle,
        "limit": _two_at_a_time,
        "bytes_to_send": _sends_nothing,
        "boots": _boots_nothing,
        "loses": _loses_nothing,
        "noticed_by": _nobody,
        "segment_of": _no_segment,
    }
    return cast("Provider", with_defaults(module, defaults))


def _nothing_wanted(_testbed: LoadedTestbed) -> tuple[Resource, ...]:
    """Return nothing: the default where guest types or network dialects describe the resources."""
    return ()


def _nothing_asked(_options: Up, _wanted: Resource) -> None:
    """Return nothing: the default."""


async def _nothing_in_the_way(_work: Work, _changes: Sequence[Change]) -> tuple[Refusal, ...]:
    """Return nothing: the default."""
    return ()


async def _nothing_to_settle(_work: Work, _found: Sequence[Found]) -> None:
    """Do nothing: the default."""


def _two_at_a_time(_work: Work, _host: str, *, removing: bool) -> int:  # noqa: ARG001
    """Return the default limit."""
    return 2


def _sends_nothing(_testbed: LoadedTestbed, _change: Change) -> int:
    """Return the default."""
    return 0


def _boots_nothing(_change: Change) -> bool:
    """Return the default."""
    return False


def _loses_nothing(_change: Change) -> None:
    """Return nothing: the default."""


def _nobody(_testbed: LoadedTestbed, _change: Change) -> tuple[str, ...]:
    """Return nothing: the default."""
    return ()


def _no_segment(_project: str, _change: Change) -> None:
    """Return nothing: the default."""
