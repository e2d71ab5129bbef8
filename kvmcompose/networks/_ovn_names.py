"""Names of switches in the YAML: the problem of one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from kvmcompose.core.errors import Complaint
from kvmcompose.networks._ovn_model import Path


def check_switch(
    name: str, switches: Collection[str], path: Path, *, at_key: bool = False
) -> Iterator[Complaint]:
    """Yield the problem of a switch that does not exist."""
    if name not in switches:
        near = difflib.get_close_matches(name, switches, 1)
        yield Complaint(
            code="unknown-switch",
            path=path,
            message=f"there is no switch {name!r}",
            wanted="a switch of network.ovn.switches",
            hint=f"did you mean {near[0]!r}?" if near else None,
            at_key=at_key,
        )
