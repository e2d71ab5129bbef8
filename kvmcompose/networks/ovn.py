"""OVN: the dialect with logical switches and routers, which are on all hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvmcompose.core.artefact import Artefact
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Host, Machine, PlacedTestbed, Segment, Topology
from kvmcompose.core.state import Interface, State
from kvmcompose.networks import _ovn_check, _ovn_parse, _ovn_specialise
from kvmcompose.networks._ovn_model import Network, NetworkState
from kvmcompose.networks._ovn_northbound import northbound

__all__ = ["INTERFACES", "attachments", "northbound", "parse", "scaled"]

INTERFACES = "network"
attachments = _ovn_parse.attachments
scaled = _ovn_parse.scaled
parse = _ovn_parse.parse


def topology(network: Network) -> Topology:
    """Return every switch as a segment that is on all hosts."""
    segments = tuple(Segment(name) for name in network.switches)
    return Topology(segments, (), None, everywhere=True, noun="switch")


def specialise(placed: PlacedTestbed) -> tuple[NetworkState, dict[str, tuple[Interface, ...]], str | None]:
    """See ``Dialect.specialise``."""
    return _ovn_specialise.specialise(placed)


def check(network: Network, machines: Sequence[Machine], hosts: Sequence[Host]) -> Iterator[Complaint]:
    """Yield the problems of the network and of the interfaces attached to it."""
    return _ovn_check.check(network, machines, hosts)


def artefacts(_state: State) -> Iterator[Artefact]:
    """Yield nothing."""
    yield from ()
