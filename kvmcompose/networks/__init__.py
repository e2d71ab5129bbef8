"""Network dialects: one module each, found by the name of its schema, ``schemas/networks/<dialect>.json``.

A module offers:

``INTERFACES``                    the key of a machine's interfaces in the YAML
``attachments(machine)``          the interfaces of a machine's YAML entry
``scaled(entries)``               the interfaces of its clones
``parse(section)``                the network section as the dialect's own type
``check(network, ...)``           the problems that a schema cannot express
``topology(network)``             what placement must know of it
``specialise(placed)``            names, addresses and links, after placement
``artefacts(state)``              the network's files
``check_state(state)``            the problems of a state as read back that a schema cannot express
``network_plan(state)``           what to create on the hosts, from the state as read back
``privileges(state, ...)``        what it reaches on the hosts beyond the testbed's own, likewise
``keeper(before, logical)``       finds the lines that keep addresses when the YAML changes; optional
``drawing(state)``                the picture of the network, from the state as read back; optional
``as_ovn(logical, state)``        the same network in OVN's dialect; optional
``logical_targets(state)``        the logical switches and ports by their names, for captures; optional
``external_addresses(state)``     the addresses that a router translates to guests'; optional
``gateways(logical)``             the host of each port of a router that has one; optional
``connectivity(logical)``         knows what reaches what (an ``Oracle``), for ``check``; optional
``northbound(state, ...)``        the network as rows of OVN's northbound database, for ``check``; optional
``row_path(network, ref)``        the place in the YAML that such a row comes from; with ``northbound``
``check_management(network, …)``  the guests that cannot be reached although the YAML asks for it; optional
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import LogicalTarget, NetworkPlan
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import (
    Attachment,
    Guest,
    Host,
    LogicalTestbed,
    Machine,
    Management,
    PlacedTestbed,
    ScaledAttachment,
    Topology,
)
from kvmcompose.core.privilege import Privilege
from kvmcompose.core.state import Interface, State
from kvmcompose.drawing.graph import Drawing, Node, distinct


class Drift(msgspec.Struct, frozen=True):
    """An interface of a guest that would change: as it was, and as it would be."""

    guest: str
    index: int
    old: Interface
    new: Interface

    @property
    def key(self) -> tuple[str, int]:
        """The guest's name and the interface's number."""
        return self.guest, self.index


class AsOvn(msgspec.Struct, frozen=True):
    """A network of OVN, and what follows for guests.

    ``switch_of`` has the switch of each bridge, ``section`` is the ``network`` section as plain data.
    ``static`` are addresses of interfaces whose ``dynamic`` has no counterpart, by guest and number.
    ``notes`` are warnings, with paths in the YAML of bridges.
    """

    switch_of: dict[str, str]
    section: dict[str, Any]
    static: dict[tuple[str, int], str]
    notes: tuple[Complaint, ...]


class AddressKeeper(Protocol):
    """Finds the lines of the YAML that keep the addresses of a testbed.

    Only the dialect reads a ``hold``, which is a set of lines; ``nothing`` is the empty one.
    """

    nothing: Any

    def unnamed(self, drift: Drift) -> Drift | None:
        """Return the change without what the YAML's lines for this interface and its bridge ask for."""

    def more(self, drifts: Sequence[Drift], hold: Any) -> Any:
        """Return the lines, with those that these changes require; the same if there are none."""

    def held(self, logical: LogicalTestbed, hold: Any) -> LogicalTestbed:
        """Return the testbed as if the YAML had these lines."""

    def lines(self, hold: Any) -> dict[str, Any]:
        """Return the lines as the YAML has them: an entry of a list is found by its name."""

    def obstacle(self, drift: Drift, hold: Any) -> str:
        """Return why no line prevents a change."""


class Dialect(Protocol):
    """What a module in this package offers; see above."""

    INTERFACES: str

    def attachments(self, machine: dict[str, Any]) -> tuple[Attachment, ...]:
        """Return the interfaces of a machine, from its entry in the YAML."""

    def scaled(self, entries: Any) -> tuple[ScaledAttachment, ...]:
        """Return the interfaces of a machine's clones, from ``scaling.interfaces``."""

    def parse(self, section: dict[str, Any]) -> Any:
        """Return the network section as the dialect's own type."""

    def check(self, network: Any, machines: Sequence[Machine], hosts: Sequence[Host]) -> Iterable[Complaint]:
        """Yield the problems of the network and of the interfaces attached to it."""

    def topology(self, network: Any) -> Topology:
        """Return the segments to place, and their links."""

    def specialise(self, placed: PlacedTestbed) -> tuple[Any, dict[str, tuple[Interface, ...]], str | None]:
        """Return the network section of the state, every guest's interfaces, and the external bridge.

        Raises ComplaintsError when the addresses of the YAML cannot all be used.
        """

    def artefacts(self, state: State) -> Iterable[Artefact]:
        """Yield the network's files."""

    def check_state(self, state: State) -> Iterable[Complaint]:
        """Yield what ``specialise`` could not have written. ``network`` is plain data of its schema."""

    def network_plan(self, state: State) -> NetworkPlan:
        """Return what to create on the hosts; the state's ``network`` is plain data."""

    def privileges(self, state: State, *, for_member: bool) -> Iterable[Privilege]:
        """Yield what the network reaches on hosts, beyond its own bridges and their connections.

        ``for_member``: a root server acts for a user who is not an administrator. Then the result includes
        what would be harmless on the user's own machine.
        """


class _NoKeeper:
    """The keeper of a dialect that has none: every change stays."""

    nothing: Any = None

    def unnamed(self, drift: Drift) -> Drift:
        return drift

    def more(self, _drifts: Sequence[Drift], hold: Any) -> Any:
        return hold

    def held(self, logical: LogicalTestbed, _hold: Any) -> LogicalTestbed:
        return logical

    def lines(self, _hold: Any) -> dict[str, Any]:
        return {}

    def obstacle(self, _drift: Drift, _hold: Any) -> str:
        return "this network dialect has no line for it"


def keeper(before: State, logical: LogicalTestbed) -> AddressKeeper:
    """Return the keeper of a testbed's dialect.

    ``before`` is the state to keep; its network is plain data, as read back.
    """
    make = getattr(dialect(logical.dialect), "keeper", None)
    return _NoKeeper() if make is None else cast(AddressKeeper, make(before, logical))


def as_ovn(logical: LogicalTestbed, state: State) -> AsOvn | None:
    """Return a network in OVN's dialect, with the addresses of the state; None if it cannot be converted."""
    convert = getattr(dialect(logical.dialect), "as_ovn", None)
    return None if convert is None else cast(AsOvn, convert(logical, state))


def logical_targets(state: State) -> dict[str, LogicalTarget]:
    """Return logical switches and ports by their names; the state's network is plain data."""
    find = getattr(dialect(state.network["dialect"]), "logical_targets", None)
    return {} if find is None else cast(dict[str, LogicalTarget], find(state))


def external_addresses(state: State) -> dict[str, tuple[str, ...]]:
    """Return the addresses by which others reach an address, by that; the state's network is plain data."""
    find = getattr(dialect(state.network["dialect"]), "external_addresses", None)
    return {} if find is None else cast(dict[str, tuple[str, ...]], find(state))


def drawing(state: State) -> Drawing:
    """Return the picture of a network; the state's network is plain data.

    For a dialect that draws none: what its guests are connected to.
    """
    draw = getattr(dialect(state.network["dialect"]), "drawing", None)
    return _what_guests_have(state) if draw is None else cast(Drawing, draw(state))


def _what_guests_have(state: State) -> Drawing:
    """Return the segments of guests: a bridge where all its guests are on one host, otherwise a switch."""
    hosts: dict[str, set[str]] = {}
    for guest in state.testbed_guests.values():
        for nic in () if guest.is_golden_image else guest.interfaces:
            hosts.setdefault(nic.bridge, set()).add(guest.testbed_host)
    kinds = {name: "bridge" if len(on) == 1 else "switch" for name, on in hosts.items()}
    shown = distinct(((kind, name) for name, kind in kinds.items()), state.testbed_guests)
    names = {name: shown[kind, name] for name, kind in kinds.items()}
    nodes = (
        Node(names[name], kind, *(hosts[name] if kind == "bridge" else ())) for name, kind in kinds.items()
    )
    return Drawing(tuple(nodes), (), names)


def gateways(logical: LogicalTestbed) -> dict[str, str]:
    """Return the host of each port of a router whose traffic one host carries to other networks."""
    find = getattr(dialect(logical.dialect), "gateways", None)
    return {} if find is None else cast(dict[str, str], find(logical))


def check_management(
    dialect_name: str, network: Any, guests: Sequence[Guest], management: Management
) -> Iterable[Complaint]:
    """Yield the guests that are to be reached without a connection, and cannot be."""
    check = getattr(dialect(dialect_name), "check_management", None)
    if check is not None:
        yield from check(network, guests, management)
        return
    yield Complaint(
        code="bad-value",
        path=("testbed_options", "management"),
        message=f"guests of the network dialect {dialect_name!r} cannot be reached by management ports",
        wanted="false",
        hint="they exist for the dialects 'bridges' and 'ovn'",
    )


def dialect(name: str) -> Dialect:
    """Return the module of a dialect."""
    return cast(Dialect, importlib.import_module(f"{__name__}.{name}"))
