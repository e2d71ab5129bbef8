"""Pairs of virtual Ethernet devices, which connect bridges of one host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvmcompose.core.deployable import VethSpec
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.network import guests_on
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("veth",)
AFTER = ("libvirt-network",)
STAGE = "network"
BATCH = True


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's pairs, whole or half."""
    links = await view.links(host)
    if not links:
        return ()
    # ours are on our bridges, or on none: what is on another bridge has the name only
    foreign = set(await host.switches.foreign_ports(view.context.project, sorted(links)))
    return [
        Found(ref=Ref(KINDS[0], pair.left, host.name), detail={end: links.get(end) for end in ends})
        for pair in view.pairs(host.name)
        if (ends := {pair.left, pair.right}) & links.keys() and not ends & foreign
    ]


def compare(wanted: Resource, found: Found) -> Change | None:
    """Return the change to a pair that lost an end, is down, or is not connected to its Linux bridge."""
    spec: VethSpec = wanted.spec
    reasons = []
    for name, end in found.detail.items():
        if end is None or not end.up:
            reasons.append(Reason(ReasonCode.MISSING, f"its end {name}"))
        elif end.mtu != spec.mtu:
            reasons.append(Reason(ReasonCode.CHANGED, "MTU", str(end.mtu), str(spec.mtu)))
    right = found.detail.get(spec.pair.right)
    if spec.pair.right_is_linux and right is not None and right.master != spec.pair.right_bridge:
        reasons.append(Reason(ReasonCode.MISSING, f"its port on the bridge {spec.pair.right_bridge}"))
    if not reasons:
        return None
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=tuple(reasons), wanted=wanted, found=found)


def noticed_by(testbed: LoadedTestbed, change: Change) -> Iterable[str]:
    """Return the guests on the bridges that the pair connects."""
    pairs = [each for each in testbed.network_plan.veths if each.left == change.ref.name]
    names = {name for each in pairs for name in (each.left_bridge, each.right_bridge)}
    return guests_on(testbed, change.ref.host, names)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return a pair that cannot connect to the NAT network, which is on another host."""
    plan = work.testbed.network_plan
    main = plan.network.host if plan.network is not None else None
    segments = {bridge.name: bridge.segment for bridge in plan.bridges}
    found: list[Refusal] = []
    for change in changes:
        pair = change.wanted.spec.pair if change.wanted is not None else None
        if pair is None or not pair.right_is_linux or main in (None, pair.host):
            continue
        segment = segments[pair.left_bridge]
        why = f"the external bridge {segment} is placed on {pair.host}, and the NAT network is on {main}"
        found.append((why, f"testbed_options.placement: {{pin: {{{segment}: {main}}}}}"))
    return found


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Create the pairs, all in one call."""
    pairs = [change.wanted.spec.pair for change in changes if change.wanted is not None]
    with work.step(STAGE, "links", host=host.name):
        await shielded(host.links.apply(pairs, up=(), mtu=work.testbed.network_plan.mtu))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove the pairs, all in one call."""
    with work.step(STAGE, "links", host=host.name):
        await shielded(host.links.remove(sorted(change.ref.name for change in changes)))
