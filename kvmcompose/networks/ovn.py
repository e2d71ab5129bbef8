"""OVN: the dialect with logical switches and routers, which are on all hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.deployable import NetworkPlan
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import (
    Guest,
    Host,
    LogicalTestbed,
    Machine,
    Management,
    PlacedTestbed,
    Segment,
    Topology,
)
from kvmcompose.core.privilege import Privilege
from kvmcompose.core.state import Interface, State
from kvmcompose.networks import (
    _ovn_artefacts,
    _ovn_check,
    _ovn_hold,
    _ovn_management,
    _ovn_parse,
    _ovn_plan,
    _ovn_privileges,
    _ovn_specialise,
    _ovn_stored,
)
from kvmcompose.networks._ovn_drawing import drawing, gateways
from kvmcompose.networks._ovn_model import OvnNetwork, OvnState
from kvmcompose.networks._ovn_northbound import northbound
from kvmcompose.networks._ovn_places import row_path
from kvmcompose.networks._ovn_taps import external_addresses, logical_targets

__all__ = [
    "INTERFACES",
    "attachments",
    "drawing",
    "external_addresses",
    "gateways",
    "logical_targets",
    "northbound",
    "parse",
    "row_path",
    "scaled",
]

INTERFACES = "network"
attachments = _ovn_parse.attachments
scaled = _ovn_parse.scaled
parse = _ovn_parse.parse


def topology(network: OvnNetwork) -> Topology:
    """Return every switch as a segment that is on all hosts."""
    segments = tuple(Segment(name) for name in network.switches)
    return Topology(segments, (), None, everywhere=True, noun="switch")


def specialise(placed: PlacedTestbed) -> tuple[OvnState, dict[str, tuple[Interface, ...]], str | None]:
    """See ``Dialect.specialise``."""
    return _ovn_specialise.specialise(placed)


def check(network: OvnNetwork, machines: Sequence[Machine], hosts: Sequence[Host]) -> Iterator[Complaint]:
    """Yield the problems of the network and of the interfaces attached to it."""
    return _ovn_check.check(network, machines, hosts)


def check_management(
    network: OvnNetwork, guests: Sequence[Guest], management: Management
) -> Iterator[Complaint]:
    """Yield the guests that cannot be reached, and rules that are in the way."""
    return _ovn_management.check(network, guests, management)


def artefacts(state: State) -> Iterator[Artefact]:
    """Yield the rows of the network, and the libvirt network of golden images, if there are any."""
    return _ovn_artefacts.artefacts(state)


def check_state(state: State) -> Iterator[Complaint]:
    """Check by the rules of the YAML, and that names and addresses are as ``specialise`` assigns them."""
    return _ovn_stored.check_state(state)


def network_plan(state: State) -> NetworkPlan:
    """Return the chassis, ways out, rows and host interfaces of the network."""
    return _ovn_plan.network_plan(state)


def keeper(before: State, logical: LogicalTestbed) -> _ovn_hold.OvnKeeper:
    """Return what keeps addresses by ``ip`` and ``mac``."""
    return _ovn_hold.OvnKeeper(before, logical)


def privileges(state: State, *, for_member: bool) -> Iterator[Privilege]:  # noqa: ARG001 (as other dialects)
    """Yield provider networks, interfaces of hosts on switches, and databases that exist already."""
    network = msgspec.convert(state.network, OvnState, from_attributes=True)
    return _ovn_privileges.privileges(state, network)
