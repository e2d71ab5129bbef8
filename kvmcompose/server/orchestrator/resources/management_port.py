"""Management ports: the namespaces through which the server reaches isolated guests.

Their ends that are ports of bridges are resources of Open vSwitch; with OVN, interfaces of hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kvmcompose.core.deployable import ManagementPort, NicPort
from kvmcompose.core.names import first_few
from kvmcompose.core.ovn_hosts import HostPort
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.netns.interface import FoundNamespace
from kvmcompose.providers.ovs.interface import SwitchChange
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded

KINDS = ("management-port",)
AFTER = ("libvirt-network",)
STAGE = "network"
BATCH = True


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's namespaces on a host."""
    found = await host.management.observe(view.context.project)
    return [Found(ref=Ref(KINDS[0], name, host.name), detail=each) for name, each in found.items()]


def compare(wanted: Resource, found: Found) -> Change | None:
    """Everything is set while it is in use."""
    spec: ManagementPort = wanted.spec
    there: FoundNamespace = found.detail
    lost = [
        name
        for name, is_there in (
            ("its interface", there.mac is not None and there.up),
            ("its address", there.mac is None or bool(there.addresses)),
            ("its firewall", there.firewall),
        )
        if not is_there
    ]
    reasons = [Reason(ReasonCode.MISSING, name) for name in lost]
    changed = [
        Reason(ReasonCode.CHANGED, name, before, after)
        for name, before, after in (
            ("address", ", ".join(there.addresses), spec.address),
            ("MAC address", there.mac, spec.mac),
            ("MTU", str(there.mtu), str(spec.mtu)),
        )
        if there.mac is not None and before and before != after
    ]
    if not reasons and not changed:
        return None
    verb = Verb.REPAIR if not changed else Verb.UPDATE
    return Change(verb=verb, ref=wanted.ref, reasons=(*reasons, *changed), wanted=wanted, found=found)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Return the hosts that lack a program."""
    hosts = {each.host for each in work.testbed.network_plan.management_ports}

    async def check(host: HostDrivers) -> None:
        if host.name in hosts:
            await host.management.check()

    return await work.on_hosts(check) if hosts else ()


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Create and set the namespaces, in one call."""
    ports: list[ManagementPort] = [change.wanted.spec for change in changes if change.wanted is not None]
    with work.step(STAGE, "management", host=host.name) as step:
        await shielded(host.management.apply(ports))
        await shielded(_open_again(work, host, [each for each in changes if _is_new(each)]))
        # connections through an earlier namespace of that name lead nowhere, and do not notice
        through = set(ports)
        for guest in work.testbed.guests.values():
            if guest.management in through:
                await work.context.shell.disconnect(guest.state.domain)
        step.say(f"management ports: {first_few([each.namespace for each in ports])}")


def _is_new(change: Change) -> bool:
    """Return whether the pair is created."""
    return change.found is None or change.found.detail.mac is None


async def _open_again(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Let Open vSwitch open pairs that take the place of others: it keeps the earlier one open."""
    logical = _logical_ports(work, host)
    if logical:
        there = {each.name for each in await host.host_ports.observe(work.context.project)}
        for change in changes:
            port = logical.get(change.wanted.spec.name) if change.wanted is not None else None
            if port is not None and port.name in there:
                await host.host_ports.create(work.context.project, port)
        return
    bridges = await host.switches.observe(work.context.project)
    known = {port.name for bridge in bridges.values() for port in bridge.ports}
    ports: list[ManagementPort] = [each.wanted.spec for each in changes if each.wanted is not None]
    again = [
        NicPort(host=each.host, bridge=each.bridge, nic=each.name) for each in ports if each.name in known
    ]
    if again:
        datapath_type = work.testbed.state.testbed_hosts[host.name].datapath_type
        names = tuple(each.nic for each in again)
        await host.switches.change(
            SwitchChange(
                project=work.context.project,
                datapath_type=datapath_type,
                nics=tuple(again),
                removed_ports=names,
            )
        )


def _logical_ports(work: Work, host: HostDrivers) -> Mapping[str, HostPort]:
    """Return the management ports on a host that are logical ports of OVN."""
    specs = [each.spec for each in work.testbed.network_plan.resources if each.ref.host == host.name]
    return {each.name: each for each in specs if isinstance(each, HostPort) and each.is_pair}


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove the namespaces, in one call."""
    with work.step(STAGE, "management", host=host.name):
        await shielded(host.management.remove(sorted(change.ref.name for change in changes)))
