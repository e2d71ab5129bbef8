"""Ways out of OVN's networks: a bridge on a gateway host, behind which guests are masqueraded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvmcompose.core.ovn_hosts import Outside
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _in_use
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded

KINDS = ("ovn-outside",)
AFTER = ("ovn-chassis",)
STAGE = "network"


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's bridges to the outside on a host."""
    if view.ovn is None:
        return ()
    return [
        Found(ref=Ref(KINDS[0], each.spec.bridge, host.name), spec=each.spec, state=each.wrong)
        for each in await host.outsides.observe(view.context.project)
    ]


def compare(wanted: Resource, found: Found) -> Change | None:
    """All of it changes in use."""
    reasons = [
        Reason(ReasonCode.CHANGED, key, str(getattr(found.spec, key)), str(getattr(wanted.spec, key)))
        for key in ("network", "address", "datapath_type")
        if getattr(found.spec, key) != getattr(wanted.spec, key)
    ]
    before, after = found.spec.has_guests, wanted.spec.has_guests
    if before != after:
        reasons.append(Reason(ReasonCode.ADDED if after else ReasonCode.REMOVED, "guests"))
    return _in_use.change(wanted, found, reasons)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return bridges and subnets that are in use."""
    mine: dict[str, list[Outside]] = {}
    for change in changes:
        if change.wanted is not None:
            mine.setdefault(change.ref.host, []).append(change.wanted.spec)

    async def check(host: HostDrivers) -> None:
        for each in mine.get(host.name, ()):
            await host.outsides.check(work.context.project, each)

    return await work.on_hosts(check)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Create a bridge to the outside, or set what differs."""
    (change,) = changes
    assert change.wanted is not None  # noqa: S101 (removals are the other function's)
    spec: Outside = change.wanted.spec
    with work.step(STAGE, f"ovn-outside:{spec.bridge}", host=host.name) as step:
        await shielded(host.outsides.create(work.context.project, spec))
        step.say(f"{spec.bridge} is the way out of {spec.network}, with the address {spec.address}")


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove a bridge to the outside."""
    (change,) = changes
    assert change.found is not None  # noqa: S101 (what is removed was found)
    spec: Outside = change.found.spec
    with work.step(STAGE, f"ovn-outside:{spec.bridge}", host=host.name):
        await shielded(host.outsides.remove(work.context.project, spec.bridge))
