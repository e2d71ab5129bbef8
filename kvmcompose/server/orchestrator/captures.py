"""Capturing packets: what is meant, where it lies, and the stream of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import msgspec

from kvmcompose.core.commands import Capture
from kvmcompose.core.deployable import LibvirtNetwork, LogicalTarget, SwitchBridge, Tap
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.names import near_names
from kvmcompose.core.state import Interface
from kvmcompose.hosts.errors import DriverError
from kvmcompose.networks import logical_targets
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.byte_stream import BegunStream
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.instances import instances, why_not_on
from kvmcompose.server.orchestrator.merged_packets import merged
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

_ON = ("running", "paused", "pmsuspended")
#: How many interfaces a capture of a logical switch has at most: each is a process on its host.
_MOST_TAPS = 64


class WrongCaptureError(KvmComposeError):
    """What is asked for is not there or makes no sense; nothing was begun."""


async def capture(context: Context, wanted: Capture) -> BegunStream:
    """Begin to capture. A guest comes before a bridge, a logical switch or port of its name, which also go by
    their names on the host and in OVN.

    Raises WrongCaptureError for what there is not, RefusedError for what is not up, DriverError.
    """
    testbed = await context.read_current()
    guest = testbed.guests.get(wanted.target.removeprefix(f"{testbed.project}-"))
    guest = testbed.guests.get(wanted.target, guest)
    bridge = next(
        (each for each in testbed.network_plan.bridges if wanted.target in (each.segment, each.name)), None
    )
    network = testbed.network_plan.network
    if guest is not None:
        stream = await _guest(context, testbed, guest, wanted)
    elif wanted.interface is not None:
        raise WrongCaptureError(f"{wanted.target} is not a guest: it has no interface {wanted.interface}")
    elif bridge is not None:
        stream = await _bridge(context, testbed, bridge, wanted)
    elif network is not None and wanted.target in (network.name, network.bridge):
        stream = await _network(context, testbed, network, wanted)
    elif (target := logical_targets(testbed.state).get(wanted.target)) is not None:
        stream = await _logical(context, testbed, target, wanted)
    else:
        raise _unknown(testbed, wanted.target)
    try:
        return BegunStream(await anext(stream), stream)
    except StopAsyncIteration:
        raise DriverError(f"the capture of {wanted.target} ended before it had begun") from None


async def _guest(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, wanted: Capture
) -> AsyncGenerator[bytes]:
    guest = context.guest(testbed, guest.name)
    domain = (await instances(context, testbed, guest)).get(guest.name)
    if domain is None or domain.state not in _ON:
        reason, hint = why_not_on(guest.name, domain)
        raise RefusedError(f"{reason}: there are packets only while it runs", hint=hint)
    nic = _nic(guest, wanted.interface)
    host = context.host_of(guest, testbed)
    if nic.attach == "ovn":
        tap = Tap(host.name, nic.target, nic.source, nic.interface_id or "", guest.name)
        if tap not in await _there(testbed, host, [tap]):
            raise RefusedError(
                f"{nic.target} is not the logical port of {guest.name} on {nic.source}", hint="kvm-compose up"
            )
    elif await host.switches.foreign_ports(testbed.project, [nic.target]):
        raise RefusedError(
            f"{nic.target} is on another bridge: {guest.name} does not have this interface",
            hint="kvm-compose down, then up",
        )
    await _check_filter(host, wanted)
    return host.captures.interface(nic.target, wanted)


def _nic(guest: LoadedGuest, given: str | None) -> Interface:
    """The interface that is meant. Raises WrongCaptureError."""
    nics = guest.state.interfaces
    found = list(nics)
    if given is not None:
        found = [nic for number, nic in enumerate(nics) if given in (str(number), nic.bridge, nic.source)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{number} (on {nic.bridge})" for number, nic in enumerate(nics)) or "none"
    what = f"{len(found)} interfaces" if found else f"no interface {given or ''}".rstrip()
    raise WrongCaptureError(
        f"{guest.name} has {what}{f' on {given}' if found and given is not None else ''}",
        hint=f"name one with --interface: {there}" if nics else "capture the bridge that it should be on",
    )


async def _bridge(
    context: Context, testbed: LoadedTestbed, bridge: SwitchBridge, wanted: Capture
) -> AsyncGenerator[bytes]:
    host = context.host(testbed.state.testbed_hosts[bridge.host])
    if bridge.name not in await host.switches.observe(testbed.project):
        raise _down(wanted.target)
    await _check_filter(host, wanted)
    return host.captures.bridge(testbed.project, bridge.name, wanted)


async def _logical(
    context: Context, testbed: LoadedTestbed, target: LogicalTarget, wanted: Capture
) -> AsyncGenerator[bytes]:
    """Capture a port on its host, a switch at all its interfaces on all hosts."""
    if not target.taps and target.port is not None:
        raise WrongCaptureError(
            f"{wanted.target} is a port without an interface on a host: of a router or a provider network",
            hint=f"capture the switch: kvm-compose capture {target.switch}",
        )
    guests = [testbed.guests[tap.guest] for tap in target.taps if tap.guest is not None]
    domains = await instances(context, testbed, *guests) if guests else {}
    on = {name for name, domain in domains.items() if domain.state in _ON}
    hosts: dict[str, HostDrivers] = {}
    found: list[Tap] = []
    for name in dict.fromkeys(tap.host for tap in target.taps):
        hosts[name] = context.host(testbed.state.testbed_hosts[name])
        taps = [tap for tap in target.taps if tap.host == name and (tap.guest is None or tap.guest in on)]
        found += await _there(testbed, hosts[name], taps)
    if not found:
        raise RefusedError(
            f"no guest on {target.switch} runs, and no host has an interface there", hint="kvm-compose up"
        )
    if len(found) > _MOST_TAPS:
        raise WrongCaptureError(
            f"{target.switch} has {len(found)} interfaces: at most {_MOST_TAPS} are captured at once",
            hint=f"capture single guests: kvm-compose capture {guests[0].name} --interface {target.switch}",
        )
    for name in dict.fromkeys(tap.host for tap in found):
        await _check_filter(hosts[name], wanted)
    each = msgspec.structs.replace(wanted, count=None)
    streams = [hosts[tap.host].captures.interface(tap.name, each) for tap in found]
    return merged(streams, wanted.snaplen, wanted.count)


async def _there(testbed: LoadedTestbed, host: HostDrivers, taps: Sequence[Tap]) -> list[Tap]:
    """Return those that a host has as ports of OVN's bridge, with the names that they have in OVN."""
    bridges = {tap.bridge for tap in taps if tap.guest is not None}
    found = await host.switches.observe(testbed.project, bridges) if bridges else {}
    ports = {
        (name, port.name, port.interface_id)
        for name, bridge in found.items()
        for port in bridge.ports
        if name in bridges
    }
    if any(tap.guest is None for tap in taps):
        ports |= {
            (port.bridge, port.name, port.interface_id)
            for port in await host.host_ports.observe(testbed.project)
        }
    return [tap for tap in taps if (tap.bridge, tap.name, tap.port) in ports]


async def _network(
    context: Context, testbed: LoadedTestbed, network: LibvirtNetwork, wanted: Capture
) -> AsyncGenerator[bytes]:
    host = context.host(testbed.state.testbed_hosts[network.host])
    found = (await host.hypervisor.networks.observe(testbed.project)).get(network.name)
    if found is None or not found.active:
        raise _down(wanted.target)
    await _check_filter(host, wanted)
    return host.captures.interface(network.bridge, wanted)


async def _check_filter(host: HostDrivers, wanted: Capture) -> None:
    if wanted.filter is None:
        return
    complaint = await host.captures.check_filter(wanted.filter)
    if complaint is not None:
        raise WrongCaptureError(
            f"the filter {wanted.filter!r} cannot be used: {complaint}",
            hint="see pcap-filter(7); for example: 'tcp port 80 and host 10.1.2.3'",
        )


def _down(name: str) -> RefusedError:
    return RefusedError(f"{name} is not up", hint="kvm-compose up")


def _unknown(testbed: LoadedTestbed, name: str) -> WrongCaptureError:
    plan = testbed.network_plan
    logical = logical_targets(testbed.state)
    known = [*testbed.guests, *(bridge.segment for bridge in plan.bridges), *logical]
    known += [plan.network.name] if plan.network is not None else []
    noun = "logical switch or port" if logical else "bridge"
    return WrongCaptureError(
        f"there is no guest or {noun} {name!r} in {testbed.project}", hint=near_names(name, known)
    )
