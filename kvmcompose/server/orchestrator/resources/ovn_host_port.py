"""Interfaces of hosts that are logical ports of OVN: those of the YAML, and of management ports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_interface

from kvmcompose.core.ovn_hosts import HostPort
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _in_use
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.stages import shielded

KINDS = ("ovn-host-port",)
AFTER = ("ovn-row", "management-port")
STAGE = "network"


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's interfaces of a host."""
    if view.ovn is None:
        return ()
    found = await host.host_ports.observe(view.context.project)
    return [Found(ref=Ref(KINDS[0], each.name, host.name), spec=each) for each in found]


def compare(wanted: Resource, found: Found) -> Change | None:
    """All of it changes in use."""
    before, after = _texts(found.spec), _texts(wanted.spec)
    reasons = (
        Reason(ReasonCode.CHANGED, key, before[key] or None, each)
        for key, each in after.items()
        if before[key] != each
    )
    return _in_use.change(wanted, found, reasons)


def _texts(port: HostPort) -> dict[str, str]:
    """Return what an interface is like, in the words of the YAML."""
    return {
        "bridge": port.bridge,
        "port": port.interface_id,
        "mac": port.mac.lower(),
        "ip": " ".join(sorted(str(ip_interface(each)) for each in port.addresses)),
        "mtu": str(port.mtu),
    }


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Create an interface, or set what differs."""
    (change,) = changes
    assert change.wanted is not None  # noqa: S101 (removals are the other function's)
    with work.step(STAGE, f"ovn-host-port:{change.ref.name}", host=host.name):
        await shielded(host.host_ports.create(work.context.project, change.wanted.spec))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove an interface."""
    (change,) = changes
    with work.step(STAGE, f"ovn-host-port:{change.ref.name}", host=host.name):
        await shielded(host.host_ports.remove(change.ref.name))
