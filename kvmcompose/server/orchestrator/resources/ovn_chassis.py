"""Hosts as chassis of OVN: settings that are the host's, and shared by projects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from kvmcompose.core.ovn_hosts import ChassisSpec
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.ovn.keys import ends_soon
from kvmcompose.providers.ovs.chassis import FoundChassis, obstacle, refusal, to_set
from kvmcompose.server.orchestrator.resources import _in_use
from kvmcompose.server.orchestrator.resources._ovn import databases, last_change
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded

KINDS = ("ovn-chassis",)
AFTER = ("ovn-central",)
STAGE = "network"
#: How long ovn-controller may take to connect, and to catch up, in seconds.
_SECONDS, _PAUSE = 20.0, 0.3
#: What settings are called in the config, by their keys in Open vSwitch.
_TERMS = {
    "ovn-encap-ip": "encap_ip",
    "ovn-encap-type": "encap_type",
    "ovn-bridge": "bridge",
    "ovn-bridge-datapath-type": "datapath_type",
    "system-id": "chassis_name",
}


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the host's settings, if the project needs them."""
    if view.ovn is None:
        return ()
    found = await view.chassis(host)
    if view.context.project not in found.users:
        return ()
    state = await _state(view, host, found.name)
    if not state and ends_soon(found.expires):
        state = f"about to lose its TLS key, which ends on {found.expires}"
    return [Found(ref=Ref(KINDS[0], host.name, host.name), state=state, detail=found)]


async def _state(view: View, host: HostDrivers, name: str) -> str:
    if not await host.chassis.connected():
        return "not connected"
    number = last_change(view)
    if number is not None and await databases(view).northbound.lagging(number, [name]):
        return "behind"
    return ""


def compare(wanted: Resource, found: Found) -> Change | None:
    """Settings change while guests run."""
    spec: ChassisSpec = wanted.spec
    there: FoundChassis = found.detail
    reasons = [
        Reason(ReasonCode.CHANGED, _TERMS.get(key, key), _there(there, key), value)
        for key, value in to_set(spec, there).items()
    ]
    if spec.keys and not there.has_identity:
        reasons.append(Reason(ReasonCode.MISSING, "its TLS key"))
    return _in_use.change(wanted, found, reasons, "ovn-controller")


def _there(found: FoundChassis, key: str) -> str | None:
    values = {
        "ovn-remote": found.remote,
        "ovn-encap-ip": found.encap_ip,
        "ovn-encap-type": found.encap_type,
        "ovn-bridge": found.bridge,
        "ovn-bridge-datapath-type": found.datapath_type,
        "system-id": found.name,
    }
    return values[key] or None


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Return hosts without ovn-controller, those of another OVN, and those that are one chassis."""
    wanted = {
        each.ref.host: each.spec
        for each in work.testbed.network_plan.resources
        if isinstance(each.spec, ChassisSpec)
    }
    names: dict[str, str] = {}

    async def check(host: HostDrivers) -> None:
        if host.name not in wanted:
            return
        _check_address(wanted[host.name], several=len(wanted) > 1)
        await host.chassis.check()
        found = await work.view.chassis(host)
        why = obstacle(work.context.project, wanted[host.name], found)
        if why is not None:
            raise refusal(why, host.name)
        name = found.name or wanted[host.name].name
        if names.setdefault(name, host.name) != host.name:
            raise DriverError(
                f"its system-id is {name}, as that of {names[name]}: one of them is a copy of the other",
                hint=f"give it another one: ovs-vsctl set open . external_ids:system-id={host.name} "
                "(Debian: in /etc/openvswitch/system-id.conf, too)",
            )

    return await work.on_hosts(check)


def _check_address(spec: ChassisSpec, *, several: bool) -> None:
    """Raise DriverError for an end of tunnels that Open vSwitch does not accept, or nobody reaches."""
    hint = "give the host an address that the other hosts reach: `ip`, or `encap_ip` of its `ovn`"
    try:
        address = ip_address(spec.encap_ip)
    except ValueError:
        raise DriverError(f"tunnels need an address, not the name {spec.encap_ip}", hint=hint) from None
    if several and address.is_loopback:
        raise DriverError(f"other hosts cannot send to {address}", hint=hint)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Make a host a chassis."""
    (change,) = changes
    assert change.wanted is not None  # noqa: S101 (removals are the other function's)
    spec: ChassisSpec = change.wanted.spec
    with work.step(STAGE, "ovn-chassis", host=host.name) as step:
        found = await host.chassis.observe()
        identity = None
        lost = change.found is not None and change.found.state  # its key may be of an earlier authority
        if spec.keys and (lost or not found.has_identity):
            identity = await databases(work.view).southbound.identity(found.name or spec.name)
        await shielded(host.chassis.join(work.context.project, spec, identity))
        name = found.name or spec.name
        if change.found is not None and change.found.state:
            await _catch_up(work, host, name)
        step.say(f"{host.name} is the chassis {name}")


async def _catch_up(work: Work, host: HostDrivers, name: str) -> None:
    """Wait until ovn-controller is connected, and has carried out the last change. Raises DriverError."""
    end = time.monotonic() + _SECONDS
    while not await host.chassis.connected():
        if time.monotonic() > end:
            raise DriverError(
                f"ovn-controller on {host.name} is not connected to OVN's southbound database",
                hint="does it reach it? On that host: ovs-vsctl get open . external_ids:ovn-remote; "
                "tail /var/log/ovn/ovn-controller.log",
            )
        await asyncio.sleep(_PAUSE)
    number = last_change(work.view)
    if number is not None:
        await databases(work.view).northbound.in_force(number, {name: host.name}, _SECONDS)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Forget the project's need for it."""
    (change,) = changes
    if change.verb is not Verb.REMOVE:
        return
    with work.step(STAGE, "ovn-chassis", host=host.name):
        found = await host.chassis.observe()
        if found.users <= {work.context.project} and "ovn-remote" in found.made:
            # the host leaves last: what is noted there is what `down` goes by after a server was killed
            await shielded(host.chassis.detach(work.context.project))
            await shielded(databases(work.view).southbound.forget([found.name]))
        await shielded(host.chassis.leave(work.context.project))
