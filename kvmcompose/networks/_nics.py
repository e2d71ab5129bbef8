"""Check the keys of interfaces that both dialects have, as far as the network decides about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Host, Machine
from kvmcompose.core.nic import Trunk
from kvmcompose.core.state import Interface


def check_nics(machines: Sequence[Machine], hosts: Sequence[Host], largest_mtu: int) -> Iterator[Complaint]:
    """Yield an MTU that the network does not carry, limits without effect, and contradictions of VLANs."""
    userspace = next((host.name for host in hosts if host.datapath_type == "netdev"), None)
    for machine in machines:
        for place, attachment in machine.interfaces():
            at = ("machines", machine.index, *place)
            keys = attachment.keys
            if keys.mtu is not None and keys.mtu > largest_mtu:
                yield Complaint(
                    code="out-of-range",
                    path=(*at, "mtu"),
                    message="larger than the MTU of the testbed, whose packets fit into tunnels",
                    found=str(keys.mtu),
                    wanted=f"576 to {largest_mtu}",
                )
            inbound = keys.bandwidth.inbound if keys.bandwidth is not None else None
            if inbound is not None and inbound.peak is not None and inbound.peak < inbound.average:
                yield Complaint(
                    code="out-of-range",
                    path=(*at, "bandwidth", "inbound", "peak"),
                    message="less than average",
                    found=str(inbound.peak),
                    wanted=f"at least {inbound.average}",
                )
            outbound = keys.bandwidth.outbound if keys.bandwidth is not None else None
            if outbound is not None and userspace is not None:
                yield Complaint(
                    code="bad-value",
                    path=(*at, "bandwidth", "outbound"),
                    message=f"the host {userspace!r} has bridges in userspace ('netdev'): they read what"
                    " a guest sends before Linux could drop what is too much",
                    hint="limit 'inbound' of the receivers, or let the host have the 'system' datapath",
                    at_key=True,
                )
            if outbound is not None and outbound.peak is not None:
                yield Complaint(
                    code="bad-value",
                    path=(*at, "bandwidth", "outbound", "peak"),
                    message="Linux does not limit the peak of what a guest sends: libvirt ignores it",
                    hint="use 'burst', or give 'inbound' of the receivers a peak",
                )
            if isinstance(keys.vlan, Trunk) and keys.vlan.native in keys.vlan.trunk:
                yield Complaint(
                    code="bad-value",
                    path=(*at, "vlan", "trunk", keys.vlan.trunk.index(keys.vlan.native)),
                    message=f"frames of the native VLAN {keys.vlan.native} have no tag",
                    hint="remove it from 'trunk', or from 'native'",
                )


def check_mtu(nic: Interface, largest: int, at: tuple[str | int, ...]) -> Iterator[Complaint]:
    """Yield the MTU of an interface in a state that is read back, if the network does not carry it."""
    if nic.mtu > largest:
        yield Complaint(
            code="bad-value",
            path=(*at, "mtu"),
            message="larger than the MTU of the network",
            wanted=f"at most {largest}",
        )
