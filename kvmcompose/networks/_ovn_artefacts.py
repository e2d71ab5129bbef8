"""The files of a network of OVN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact, Literal, Policy
from kvmcompose.core.deployable import LibvirtNetwork
from kvmcompose.core.northbound import Row, RowRef, Value
from kvmcompose.core.state import State
from kvmcompose.networks._ovn_model import OvnState
from kvmcompose.networks._ovn_northbound import northbound
from kvmcompose.render.network import network_xml


def artefacts(state: State) -> Iterator[Artefact]:
    """Yield the rows of the network, and the libvirt network of golden images, if there are any."""
    if state.network.libvirt_network_name is not None:
        yield network_xml(state, state.network, ())
    yield Artefact(
        task="network-json",
        path=f"artefacts/{state.project_name}-network.json",
        policy=Policy.TEXT,
        content=Literal(rows_text(northbound(state))),
        summary="rows of OVN's northbound database",
    )


def libvirt_network(state: State, network: OvnState) -> LibvirtNetwork | None:
    """Return the network that golden images are set up in."""
    name, subnet = network.libvirt_network_name, network.libvirt_network_subnet
    if name is None or subnet is None:
        return None
    return LibvirtNetwork(
        host=state.main_host.name,
        name=name,
        bridge=str(network.libvirt_network_bridge_name),
        xml=f"artefacts/{state.project_name}-network.xml",
        subnet=subnet,
        subnet_is_derived=True,
    )


def rows_text(rows: tuple[Row, ...]) -> bytes:
    """Return rows as JSON to read and to compare: by table and name, with references by name."""
    tables: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda each: each.ref):
        shown = {key: _shown(value) for key, value in sorted(row.columns.items())}
        place = {} if row.parent is None else {"in": f"{row.parent.table} {row.parent.name}"}
        tables.setdefault(row.ref.table, {})[row.ref.name] = {**place, **shown}
    return msgspec.json.format(msgspec.json.encode(tables), indent=2) + b"\n"


def _shown(value: Value) -> Any:
    if isinstance(value, RowRef):
        return value.name
    if isinstance(value, tuple):
        return [_shown(each) for each in value]
    return value if isinstance(value, str | int) else dict(sorted(value.items()))
