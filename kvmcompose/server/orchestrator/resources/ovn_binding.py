"""That the logical ports of a guest which runs are in force on its host: ovn-controller has bound them."""

from __future__ import annotations

import time
from asyncio import sleep
from collections.abc import Iterable, Iterator, Sequence

from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change, Found, Ref, Resource
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import GUESTS
from kvmcompose.server.orchestrator.resources._ovn import databases
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("ovn-binding",)
AFTER = (GUESTS,)
STAGE = "guests"
BATCH = True
ONLY_KNOWN = True
LOST_WITH_NEEDS = True
#: How long ovn-controller may take, in seconds, and how many guests more take a second more.
_SECONDS, _GUESTS, _PAUSE = 30.0, 100, 0.1


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the logical ports of each guest that is to run."""
    if testbed.network_plan.databases is None:
        return
    for guest in testbed.runnable:
        ports = tuple(nic.interface_id for nic in guest.state.interfaces if nic.interface_id is not None)
        if ports and testbed.intents.get(guest.name, "running") == "running":
            host = guest.state.testbed_host
            ref = Ref(KINDS[0], guest.name, host)
            needs = (runtime_of(guest).instance(guest),)
            yield Resource(ref=ref, spec=ports, needs=needs, guest=guest.name)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the guests on a host whose ports are all bound."""
    if view.ovn is None:
        return ()
    on = {each.guest for each in await view.instances(host) if each.state == "running"}
    known = {each.ref: each for testbed in reversed(view.testbeds) for each in wanted(testbed)}
    mine = [each for each in known.values() if each.ref.host == host.name and each.guest in on]
    if not mine:
        return ()
    bound = await view.ovn.northbound.bound([port for each in mine for port in each.spec])
    return [
        Found(ref=each.ref, spec=each.spec, guest=each.guest) for each in mine if bound.issuperset(each.spec)
    ]


def compare(wanted: Resource, found: Found) -> Change | None:  # noqa: ARG001
    """A port is bound, or it is not."""
    return None


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Wait until ovn-controller has bound the ports of guests."""
    ports = {change.ref.name: change.wanted.spec for change in changes if change.wanted is not None}
    with work.step(STAGE, "ovn-binding", host=host.name):
        end = time.monotonic() + _SECONDS + len(ports) / _GUESTS
        northbound = databases(work.view).northbound
        while True:
            bound = await northbound.bound([port for each in ports.values() for port in each])
            left = [name for name, each in ports.items() if not bound.issuperset(each)]
            if not left:
                return
            if time.monotonic() > end:
                raise DriverError(
                    f"ovn-controller on {host.name} has not bound the ports of {first_few(left)}",
                    hint="on that host: ovs-vsctl show; tail /var/log/ovn/ovn-controller.log",
                )
            await sleep(_PAUSE)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """It goes with the guest."""
