"""Network dialects: one module each, found by the name of its schema ``schemas/networks/<dialect>.json``.

A module offers:

``attachments(machine)``          the interfaces of a machine's YAML entry
``scaled(entries)``               the interfaces of its clones
``parse(section)``                the network section as the dialect's own type
``check(network, ...)``           what a schema cannot say
``topology(network)``             what placement has to know of it
``specialise(placed)``            names, addresses and links, once everything has a host
``artefacts(state)``              the network's files
``check_state(state)``            what is wrong with a state as read back that a schema cannot say
``network_plan(state)``                 what has to be made on the hosts, from the state as read back
``privileges(state, ...)``        what of that reaches beyond the testbed's own, likewise
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import NetworkPlan
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import (
    Attachment,
    Host,
    Machine,
    PlacedTestbed,
    ScaledAttachment,
    Topology,
)
from kvmcompose.core.privilege import Privilege
from kvmcompose.core.state import Interface, State


class Dialect(Protocol):
    """What a module in this package offers; see above."""

    def attachments(self, machine: dict[str, Any]) -> tuple[Attachment, ...]:
        """The interfaces of a machine, from its entry in the YAML."""

    def scaled(self, entries: Sequence[dict[str, Any]]) -> tuple[ScaledAttachment, ...]:
        """The interfaces of a machine's clones, from ``scaling.interfaces``."""

    def parse(self, section: dict[str, Any]) -> Any:
        """The network section as the dialect's own type."""

    def check(self, network: Any, machines: Sequence[Machine], hosts: Sequence[Host]) -> Iterable[Complaint]:
        """What is wrong with the network and with who is attached to it."""

    def topology(self, network: Any) -> Topology:
        """The segments to be placed."""

    def specialise(self, placed: PlacedTestbed) -> tuple[Any, dict[str, tuple[Interface, ...]], str | None]:
        """The network section of the state, every guest's interfaces, and the external bridge.

        Raises ComplaintsError when the constraints of the YAML cannot all be met.
        """

    def artefacts(self, state: State) -> Iterable[Artefact]:
        """The network's files."""

    def check_state(self, state: State) -> Iterable[Complaint]:
        """What no ``specialise`` could have made; the state's ``network`` is plain data of its schema."""

    def network_plan(self, state: State) -> NetworkPlan:
        """What has to be made on the hosts; the state's ``network`` is plain data."""

    def privileges(self, state: State, *, for_member: bool) -> Iterable[Privilege]:
        """What the network does to hosts beyond bridges of its own and what joins them.

        ``for_member`` is whether a root server does it for a user who is no administrator: then also what is
        harmless on a machine of one's own.
        """


def dialect(name: str) -> Dialect:
    """The module of a dialect."""
    return cast(Dialect, importlib.import_module(f"{__name__}.{name}"))
