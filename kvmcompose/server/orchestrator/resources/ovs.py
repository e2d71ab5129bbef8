"""Open vSwitch bridges and their ports. Taps of guests belong to their domains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from kvmcompose.core.deployable import LinkPort, NicPort, SwitchBridge, TunnelPort
from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.iplink.interface import FoundLink
from kvmcompose.providers.ovs.interface import (
    FAIL_MODE,
    GENEVE,
    FoundBridge,
    FoundPort,
    SwitchChange,
    SwitchPlan,
    normal_protocol,
)
from kvmcompose.server.orchestrator.network import addresses_of, guests_on
from kvmcompose.server.orchestrator.resources import _in_use
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

KINDS = ("ovs-bridge", "ovs-port")
AFTER = ("veth", "management-port")
STAGE = "network"
BATCH = True

_BRIDGE, _PORT = KINDS


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's bridges on a host, and those of their ports that are no guest's."""
    known = {
        each.ref.name: each.spec
        for testbed in view.testbeds
        for each in testbed.network_plan.resources
        if each.ref.kind == _PORT and each.ref.host == host.name
    }
    links = await view.links(host)
    addresses = await addresses_of([each for each in known.values() if isinstance(each, TunnelPort)])
    found: list[Found] = []
    for bridge in (await view.bridges(host)).values():
        state = "" if bridge.fail_mode == FAIL_MODE else f"fail_mode {bridge.fail_mode}"
        spec = SwitchBridge(
            name=bridge.name, host=host.name, protocol=bridge.protocol, controller=bridge.controller
        )
        found.append(Found(ref=Ref(_BRIDGE, bridge.name, host.name), spec=spec, state=state))
        found += [
            Found(
                ref=Ref(_PORT, port.name, host.name),
                spec=_spec(host.name, bridge, port, addresses),
                state=port.error or _dead(port, known.get(port.name), links),
            )
            for port in bridge.ports
            if port.name in known or port.type == GENEVE or port.marked
        ]
    return found


def _dead(port: FoundPort, spec: object, links: Mapping[str, FoundLink]) -> str:
    """Open vSwitch keeps the device of a pair open that was deleted, and does not notice another one."""
    link = links.get(port.name)
    if port.type == GENEVE:  # it was a link before
        return ""
    return "" if not isinstance(spec, LinkPort) or (link is not None and link.attached) else "dead"


def _spec(host: str, bridge: FoundBridge, port: FoundPort, names: dict[str, str]) -> LinkPort | TunnelPort:
    """Describe a port as it would be wanted; a tunnel's remote by the name that the config has for it."""
    if port.type != GENEVE:
        return LinkPort(host=host, bridge=bridge.name, name=port.name)
    remote, key = port.options.get("remote_ip", ""), port.options.get("key", "")
    return TunnelPort(
        host=host,
        bridge=bridge.name,
        name=port.name,
        remote_ip=names.get(remote, remote),
        key=int(key) if key.isdecimal() else 0,
    )


def compare(wanted: Resource, found: Found) -> Change | None:
    """Bridges and ports change while they are in use, but for a link that becomes a tunnel or vice versa."""
    kinds = [_kind(each.spec) for each in (found, wanted)]
    if kinds[0] != kinds[1]:
        reason = Reason(ReasonCode.CHANGED, "connection", *kinds)
        return Change(verb=Verb.REPLACE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)
    keys = ("protocol", "controller") if wanted.ref.kind == _BRIDGE else ("bridge", "remote_ip", "key")
    reasons = [
        _worded(Reason(ReasonCode.CHANGED, key, _text(found.spec, key), _text(wanted.spec, key)), wanted.spec)
        for key in keys
        if _text(found.spec, key) != _text(wanted.spec, key)
    ]
    return _in_use.change(wanted, found, reasons)


def _kind(spec: object) -> str:
    return "tunnel" if isinstance(spec, TunnelPort) else "link"


def _worded(reason: Reason, spec: object) -> Reason:
    """Return a reason in the terms of the YAML and the config, where they have some."""
    if isinstance(spec, TunnelPort) and reason.subject == "remote_ip":
        return msgspec.structs.replace(reason, subject=f"ip of host {spec.remote}")
    if isinstance(spec, LinkPort) and reason.subject == "bridge" and spec.external:
        prefix = spec.bridge.removesuffix(spec.external)
        before, after = (name and name.removeprefix(prefix) for name in (reason.before, reason.after))
        return Reason(reason.code, "external_bridge", before, after)
    return reason


def _text(spec: object, key: str) -> str | None:
    value = getattr(spec, key, None)
    if key == "protocol":
        value = normal_protocol(value)
    return None if value is None else str(value)


def noticed_by(testbed: LoadedTestbed, change: Change) -> Iterable[str]:
    """Return the guests on the bridge, or on the bridge of the port."""
    if change.ref.kind == _BRIDGE:
        names = {change.ref.name}
    else:
        specs = [each.spec for each in (change.wanted, change.found) if each is not None]
        names = {each.bridge for each in specs}
    return guests_on(testbed, change.ref.host, names)


def segment_of(project: str, change: Change) -> str | None:
    """Return the name of a bridge; ports are of two of them."""
    return change.ref.name.removeprefix(f"{project}-") if change.ref.kind == _BRIDGE else None


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Return where Open vSwitch does not answer, and names that others use."""
    return await work.on_hosts(lambda host: _check(work, host))


async def _check(work: Work, host: HostDrivers) -> None:
    await host.switches.check()
    await _refuse_foreign(work, host)
    # names of interfaces are short: two projects may derive the same one
    ports = [
        each.ref.name
        for each in work.testbed.network_plan.resources
        if (each.ref.kind, each.ref.host) == (_PORT, host.name)
    ]
    pairs = [veth.right for veth in work.testbed.network_plan.veths if veth.host == host.name]
    taps = [
        nic.target
        for guest in work.testbed.by_host.get(host.name, ())
        for nic in guest.state.interfaces
        if nic.attach == "ovs"  # OVN's integration bridge is no project's
    ]
    nics = {nic.nic for nic in work.testbed.network_plan.nics}
    names = [name for name in (*ports, *pairs, *taps) if name not in nics]
    taken = await host.switches.foreign_ports(work.context.project, names)
    if taken:
        raise DriverError(
            f"interfaces with these names are on other bridges: {first_few(taken)}",
            hint="give the project another name: --project-name",
        )


async def _refuse_foreign(work: Work, host: HostDrivers) -> None:
    bridges = tuple(each for each in work.testbed.network_plan.bridges if each.host == host.name)
    foreign = await host.switches.foreign(_plan(work, host, bridges))
    if foreign:
        raise DriverError(
            f"names are taken by other Open vSwitch bridges: {', '.join(foreign)}",
            hint="remove them (ovs-vsctl del-br NAME), or give the project another name: --project-name",
        )


def _plan(work: Work, host: HostDrivers, bridges: tuple[SwitchBridge, ...]) -> SwitchPlan:
    return SwitchPlan(project=work.context.project, datapath_type=_datapath(work, host), bridges=bridges)


def _datapath(work: Work, host: HostDrivers) -> str:
    return work.testbed.state.testbed_hosts[host.name].datapath_type


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Create and set bridges, or ports, in one transaction."""
    specs = [change.wanted.spec for change in changes if change.wanted is not None]
    kind = changes[0].ref.kind
    what = "bridges" if kind == _BRIDGE else "ports"
    with work.step(STAGE, what, host=host.name) as step:
        if kind == _BRIDGE:
            await _refuse_foreign(work, host)  # the check may have been long ago
            change = SwitchChange(
                project=work.context.project, datapath_type=_datapath(work, host), bridges=tuple(specs)
            )
        else:
            change = await _port_change(work, host, changes)
            up = [each.nic for each in specs if isinstance(each, NicPort)]
            if up:
                await shielded(host.links.apply((), up=up, mtu=work.testbed.network_plan.mtu))
        await shielded(host.switches.change(change))
        step.say(f"{what}: {first_few([each.ref.name for each in changes], 20)}")


async def _port_change(work: Work, host: HostDrivers, changes: Sequence[Change]) -> SwitchChange:
    specs = [change.wanted.spec for change in changes if change.wanted is not None]
    tunnels = [each for each in specs if isinstance(each, TunnelPort)]
    names = {name: address for address, name in (await addresses_of(tunnels)).items()}
    veths = [each for each in work.testbed.network_plan.veths if each.host == host.name]
    # the other end of these is in a namespace of its own
    managed = {each.name for each in work.testbed.network_plan.management_ports}
    return SwitchChange(
        project=work.context.project,
        datapath_type=_datapath(work, host),
        tunnels=tuple(
            msgspec.structs.replace(each, remote_ip=names.get(each.remote_ip, each.remote_ip))
            for each in tunnels
        ),
        nics=(
            *(each for each in specs if isinstance(each, NicPort)),
            *(
                NicPort(host=each.host, bridge=each.bridge, nic=each.name)
                for each in specs
                if isinstance(each, LinkPort) and each.name in managed
            ),
        ),
        veths=tuple(
            each for each in veths if {each.left, each.right} & {change.ref.name for change in changes}
        ),
        # the switch is to open the interfaces of these again
        removed_ports=tuple(each.ref.name for each in changes if each.found is not None and each.found.state),
    )


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Remove bridges, or ports of those that stay, in one transaction."""
    names = tuple(sorted(change.ref.name for change in changes))
    kind = changes[0].ref.kind
    with work.step(STAGE, "bridges" if kind == _BRIDGE else "ports", host=host.name):
        if kind == _BRIDGE:
            await shielded(host.switches.remove(names))
        else:
            change = SwitchChange(project=work.context.project, datapath_type="system", removed_ports=names)
            await shielded(host.switches.change(change))
