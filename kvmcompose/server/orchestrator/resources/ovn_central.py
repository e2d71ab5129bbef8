"""The southbound database of the main host's OVN, opened to the other hosts of testbeds by TLS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvmcompose.core.ovn_hosts import Central
from kvmcompose.core.resource import Change, Found, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.ovn.keys import ends_soon
from kvmcompose.server.orchestrator.resources import _in_use
from kvmcompose.server.orchestrator.resources._ovn import databases, is_main
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded

KINDS = ("ovn-central",)
AFTER = ("project-folder",)
STAGE = "network"


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return where the database listens for the project."""
    if view.ovn is None or not is_main(view, host):
        return ()
    found = await view.ovn.southbound.observe()
    if view.context.project not in found.users:
        return ()
    state = "" if found.has_keys else "without keys"
    if found.has_keys and ends_soon(found.expires):
        state = f"about to lose its TLS keys, which end on {found.expires}"
    spec = Central(address=" ".join(found.addresses))
    return [Found(ref=Ref(KINDS[0], spec.address, host.name), spec=spec, state=state)]


def compare(wanted: Resource, found: Found) -> Change | None:
    """The keys may have gone; another address is another resource."""
    return _in_use.change(wanted, found)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Return databases that do not answer."""
    if work.testbed.network_plan.databases is None:
        return ()

    async def check(host: HostDrivers) -> None:
        if is_main(work.view, host):
            await databases(work.view).northbound.check()

    return await work.on_hosts(check)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Open the database."""
    (change,) = changes
    assert change.wanted is not None  # noqa: S101 (removals are the other function's)
    with work.step(STAGE, "ovn-central", host=host.name):
        southbound = databases(work.view).southbound
        await shielded(southbound.open(work.context.project, change.wanted.spec.address))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Close it again, unless another project needs it."""
    (change,) = changes
    with work.step(STAGE, "ovn-central", host=host.name):
        if change.verb is Verb.REMOVE:
            await shielded(databases(work.view).southbound.close(work.context.project))
