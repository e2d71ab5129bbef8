"""The NAT network of a testbed: libvirt's, on the main host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from kvmcompose.core.deployable import LibvirtNetwork
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import SubnetTakenError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt import network_entries
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.network import another_subnet, check_subnet
from kvmcompose.server.orchestrator.privileges import network_xml
from kvmcompose.server.orchestrator.resources import dns_name
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("libvirt-network",)
AFTER = ("project-folder",)
STAGE = "network"


class NetworkSpec(msgspec.Struct, frozen=True):
    """What a network is made from: its names and its definition, empty where only its digest is known.

    ``names`` have DNS entries that are not in the definition.
    """

    network: LibvirtNetwork
    xml: str
    names: tuple[str, ...] = ()


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the network, where there is one."""
    network = testbed.network_plan.network
    if network is None:
        return
    xml = testbed.read(network.xml) if testbed.has_files else ""
    names = tuple(guest.name for guest in dns_name.named(testbed))
    yield Resource(ref=Ref(KINDS[0], network.name, network.host), spec=NetworkSpec(network, xml, names))


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's networks on a host."""
    networks = await view.networks(host)
    return [
        Found(ref=Ref(KINDS[0], name, host.name), state="active" if each.active else "inactive", detail=each)
        for name, each in networks.items()
    ]


def compare(wanted: Resource, found: Found) -> Change | None:
    """Entries for guests change alive; anything else makes another network."""
    spec: NetworkSpec = wanted.spec
    differs = network_entries.difference(spec.xml, found.detail, spec.names) if spec.xml else None
    reasons: list[Reason] = []
    verb = Verb.UPDATE
    if differs is not None:
        if differs.outside:
            verb = Verb.REPAIR
        if differs.edited:
            reasons.append(Reason(ReasonCode.EDITED, "its definition in libvirt"))
        if differs.other:
            verb = Verb.REPLACE
        if differs.subnet is not None:
            reasons.append(Reason(ReasonCode.CHANGED, "subnet", *differs.subnet))
        else:  # otherwise all entries follow from that
            reasons += differs.entries
        if differs.other and not reasons:
            reasons.append(Reason(ReasonCode.EDITED, spec.network.xml))
    if found.state != "active":
        verb = verb if reasons else Verb.REPAIR
        reasons.append(Reason(ReasonCode.STATE, before=found.state, after="active"))
    if not reasons:
        return None
    return Change(verb=verb, ref=wanted.ref, reasons=tuple(reasons), wanted=wanted, found=found)


def noticed_by(testbed: LoadedTestbed, change: Change) -> Iterable[str]:
    """Return the guests that are connected to it, and have their gateway there."""
    if change.verb is Verb.UPDATE:  # entries of DHCP and DNS
        return ()
    reachable = testbed.network_plan.reachable
    return [
        guest.name
        for guest in testbed.runnable
        if any(nic.bridge in reachable for nic in guest.state.interfaces)
    ]


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Return a subnet that is not free, where the testbed is a member's."""
    network = work.testbed.network_plan.network

    async def check(host: HostDrivers) -> None:
        if network is not None and host.name == network.host and not work.context.owner.is_admin:
            await check_subnet(host, network)

    return await work.on_hosts(check)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Start the network, or bring its entries up to date."""
    (change,) = changes
    with work.step(STAGE, f"network:{change.ref.name}", host=host.name) as step:
        await shielded(_start(work, host, change, step))


async def _start(work: Work, host: HostDrivers, change: Change, step: RunningStep) -> None:
    assert change.wanted is not None  # noqa: S101 (what is applied is wanted)
    network: LibvirtNetwork = change.wanted.spec.network
    xml = await in_thread(network_xml, work.context, work.testbed, network)
    names = [guest.name for guest in dns_name.named(work.testbed)]
    active = change.found is not None and change.found.state == "active"
    try:
        if active and change.verb is not Verb.REPLACE:
            if await host.hypervisor.networks.update(xml, names):
                step.say(f"network {network.name} has the addresses and names of all guests")
                return
            await host.hypervisor.networks.remove(network.name)
        await host.hypervisor.networks.start(xml)
    except SubnetTakenError as error:
        error.hint = f"{error.hint}, or {another_subnet(network)}"
        raise
    step.say(f"network {network.name} is active: {network.subnet} on {network.bridge}")
    if change.found is not None:
        # its Linux bridge is another one now
        veths = [
            each for each in work.testbed.network_plan.veths if each.host == host.name and each.right_is_linux
        ]
        await host.links.apply(veths, up=(), mtu=work.testbed.network_plan.mtu)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Stop and undefine the network."""
    (change,) = changes
    with work.step(STAGE, "networks", host=host.name):
        await shielded(host.hypervisor.networks.remove(change.ref.name))
