"""Names in DNS of guests whose address DHCP assigns: the definition of the network cannot have them.

libvirt (9.0) refuses a DHCP entry without an address, and guests give their DHCP server only their hostname,
which is the project's name and theirs. Others have both, by the entries of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt import network_entries
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

KINDS = ("dns-name",)
AFTER = ("libvirt-network", "reachable")
STAGE = "guests"
BATCH = True
LOST_WITH_NEEDS = True


class Lease(msgspec.Struct, frozen=True):
    """The network that assigns a guest its address, and the address; None before it has one."""

    network: str
    address: str | None


def named(testbed: LoadedTestbed) -> list[LoadedGuest]:
    """Return the guests that get a name here: those that the definition, as the user edited it, has not."""
    network = testbed.network_plan.network
    if network is None:
        return []
    if not testbed.dynamic or not testbed.has_files:
        return testbed.dynamic
    defined = network_entries.addresses(testbed.read(network.xml))
    return [guest for guest in testbed.dynamic if guest.name not in defined]


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the names of guests that run."""
    network = testbed.network_plan.network
    for guest in named(testbed):
        if network is None or testbed.intents.get(guest.name, "running") != "running":
            continue
        needs = [
            Ref("libvirt-network", network.name, network.host),
            runtime_of(guest).instance(guest),
        ]
        if runtime_of(guest).is_waited_for(guest):
            needs.append(Ref("reachable", guest.name, guest.state.testbed_host))
        ref = Ref(KINDS[0], guest.name, network.host)
        yield Resource(ref=ref, spec=guest.name, needs=tuple(needs), guest=guest.name)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the names that have an address, with what DHCP has assigned to their guests since."""
    guests = {guest.name: guest for each in reversed(view.testbeds) for guest in each.dynamic}
    if not guests:
        return ()
    theirs = {guest.name for each in view.testbeds for guest in each.dynamic if guest not in named(each)}
    found: list[Found] = []
    for name, network in (await view.networks(host)).items():
        if network.active and network.xml:
            leases = await view.leases(host, name)
            known = network_entries.addresses(network.xml, alone=True)
            mine = {each: guest for each, guest in guests.items() if each not in theirs}
            found += _found(host.name, name, mine, known, leases)
    return found


def _found(
    host: str,
    network: str,
    guests: Mapping[str, LoadedGuest],
    known: Mapping[str, str],
    leases: Mapping[str, str],
) -> Iterator[Found]:
    for name, guest in guests.items():
        macs = (nic.mac.lower() for nic in guest.state.interfaces if nic.ip == "dynamic")
        lease = Lease(network, next((leases[mac] for mac in macs if mac in leases), None))
        if name in known or (lease.address is None and not _has_address_when_ready(guest)):
            yield Found(ref=Ref(KINDS[0], name, host), spec=known.get(name), guest=name, detail=lease)


def _has_address_when_ready(guest: LoadedGuest) -> bool:
    """Return whether a guest that is ready has an address: nothing says when another one has."""
    ready = guest.domain.ready if guest.domain is not None else None
    by_network = ready is None or ready.port is not None
    return by_network and runtime_of(guest).is_waited_for(guest)


def compare(wanted: Resource, found: Found) -> Change | None:
    """A name has the address that DHCP assigned last."""
    lease: Lease = found.detail
    if lease.address in (None, found.spec):
        return None
    reason = Reason(ReasonCode.CHANGED, "address", found.spec, lease.address)
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Give names the addresses that their guests have now."""
    testbed = work.testbed
    with work.step(STAGE, "names", host=host.name) as step:
        guests = [testbed.guests[change.ref.name] for change in changes]
        names = await work.context.addresses(guests, testbed)
        late = [name for name, address in names.items() if address is None]
        if late:
            step.say(f"have no address yet, so their names are not in DNS: {', '.join(late)}")
        network = testbed.network_plan.network
        assert network is not None  # noqa: S101 (without one, no name is wanted)
        await shielded(host.hypervisor.networks.put_names(network.name, names))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Take names away."""
    by_network: dict[str, dict[str, None]] = {}
    for change in changes:
        if change.found is not None:
            by_network.setdefault(change.found.detail.network, {})[change.ref.name] = None
    with work.step(STAGE, "names", host=host.name):
        for network, names in by_network.items():
            await shielded(host.hypervisor.networks.put_names(network, names))
