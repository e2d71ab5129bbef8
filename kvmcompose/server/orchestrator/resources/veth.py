"""Pairs of virtual Ethernet devices, which connect bridges of one host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("veth",)
AFTER = ("libvirt-network",)
STAGE = "network"
BATCH = True


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield a pair by the name of its left end."""
    for pair in testbed.network_plan.veths:
        yield Resource(ref=Ref(KINDS[0], pair.left, pair.host), spec=pair)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return those pairs that the testbeds have: nothing on a pair says whose it is."""
    pairs = {
        pair.left: pair
        for testbed in view.testbeds
        for pair in testbed.network_plan.veths
        if pair.host == host.name
    }
    present = await host.links.present(
        sorted({end for pair in pairs.values() for end in (pair.left, pair.right)})
    )
    if not present:
        return ()
    # ours are on our bridges, or on none: what is on another bridge has the name only
    foreign = set(await host.switches.foreign_ports(view.context.project, sorted(present)))
    found = []
    for pair in pairs.values():
        ends = {pair.left, pair.right}
        if ends & present and not ends & foreign:
            state = "" if ends <= present else "half"
            found.append(Found(ref=Ref(KINDS[0], pair.left, host.name), spec=pair, state=state))
    return found


def compare(wanted: Resource, found: Found) -> Change | None:
    """A pair that has lost an end is made again."""
    if not found.state:
        return None
    reason = Reason(ReasonCode.MISSING)
    return Change(verb=Verb.REPAIR, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Create the pairs, all in one call."""
    pairs = [change.wanted.spec for change in changes if change.wanted is not None]
    with work.step(STAGE, "links", host=host.name):
        await shielded(host.links.apply(pairs, up=(), mtu=work.testbed.network_plan.mtu))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove the pairs, all in one call."""
    with work.step(STAGE, "links", host=host.name):
        await shielded(host.links.remove(sorted(change.ref.name for change in changes)))
