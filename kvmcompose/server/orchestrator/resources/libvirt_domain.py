"""Guests that run as libvirt domains."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvmcompose.core.deployment import Level
from kvmcompose.core.resource import Change, Found, Ref, Resource, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.ovs.interface import GuestPort, SwitchChange
from kvmcompose.render.domain import DOMAIN_FORMAT
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.privileges import domain_xml
from kvmcompose.server.orchestrator.resources import _domain_checks, _domain_spec, reachable
from kvmcompose.server.orchestrator.resources._domain_spec import OFF, DomainDetail, DomainSpec, DomainWanted
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

KINDS = ("libvirt-domain",)
AFTER = ("files",)
STAGE = "guests"
#: The option of ``up`` that carries out changes that can wait.
AGAIN = "restart"
#: Guests that shut down at a time, on one host.
SHUT_DOWNS = 16

compare = _domain_spec.compare


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the domains of all guests that are started."""
    for guest in testbed.runnable:
        ref = Ref(KINDS[0], guest.state.domain, guest.state.testbed_host)
        needs = [Ref("files", ref.host, ref.host)]
        if guest.golden is not None:
            needs.append(Ref("golden-image", guest.golden, testbed.main_host.name))
        spec = DomainWanted(made=spec_of(testbed, guest), state=testbed.intents.get(guest.name, "running"))
        yield Resource(ref=ref, spec=spec, needs=tuple(needs), guest=guest.name)


def spec_of(testbed: LoadedTestbed, guest: LoadedGuest) -> DomainSpec:
    """Return what a guest's domain is made from."""
    assert guest.run is not None  # noqa: S101 (only guests that run have a domain)
    digests = testbed.digests
    xml = digests.get(guest.run.domain_xml, "")
    read = functools.partial(testbed.read, guest.run.domain_xml)
    return DomainSpec(
        version=DOMAIN_FORMAT if testbed.has_files else 0,
        guest=testbed.documents[guest.name],
        xml=xml,
        frame=_domain_spec.frame(xml, read) if testbed.has_files else "",
        seed=_digest(digests, guest, "-cloud-init.iso"),
        media=_digest(digests, guest, "-media.iso"),
    )


def _digest(digests: Mapping[str, str], guest: LoadedGuest, end: str) -> str | None:
    files = guest.run.files if guest.run is not None else ()
    return next((digests[path] for path in files if path.endswith(end) and path in digests), None)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's domains on a host, with the bridges that their taps are ports of."""
    domains = await view.domains(host)
    if not domains:
        return ()
    ports = {
        port.name: bridge.name for bridge in (await view.bridges(host)).values() for port in bridge.ports
    }
    earlier = view.deployed
    by_domain = {each.state.domain: each for each in earlier.guests.values()} if earlier is not None else {}
    found = []
    for name, domain in domains.items():
        made = _domain_spec.decode(domain.made)
        guest = by_domain.get(name)
        if made is None and earlier is not None and guest is not None and guest.run is not None:
            made = spec_of(earlier, guest)  # version 0.1 stored it there
        taps = {nic["target"] for nic in (made.guest if made else {}).get("interfaces", ())}
        bridges = {tap: ports[tap] for tap in taps if tap in ports}
        detail = DomainDetail(
            name=name,
            reason=domain.reason,
            bridges=bridges,
            stamped=bool(domain.made),
        )
        ref = Ref(KINDS[0], name, host.name)
        found.append(Found(ref=ref, spec=made, state=domain.state, guest=domain.guest, detail=detail))
    return found


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return names that others use, guests that cannot be reached, and disks in use."""
    return await _domain_checks.refusals(work, changes)


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Start a guest and wait until it can be used; or change one that runs."""
    (change,) = changes
    guest = work.testbed.guests[change.guest or ""]
    assert change.wanted is not None  # noqa: S101 (removals are the other function's)
    made = _domain_spec.encode(change.wanted.spec.made)
    found = change.found
    if found is not None and found.state not in OFF and change.wanted.spec.state == "shut off":
        await remove(work, host, changes)
        return
    if change.verb in (Verb.UPDATE, Verb.REPAIR) and found is not None and found.state not in OFF:
        with work.step(STAGE, f"update:{guest.name}", guest=guest.name, host=host.name) as step:
            await _update(work, host, change, made, step)
        return
    if change.wanted.spec.state != "running":
        return  # it is off, and is to stay so
    work.running.add(guest.name)
    await work.starter.start(guest, STAGE, made)
    if reachable.is_waited_for(guest):
        # here, so that only so many guests boot at a time
        await work.starter.wait(guest, STAGE)
        work.waited_for.add(guest.name)
        work.view.put_mark(reachable.KINDS[0], guest.name, "yes")


async def _update(work: Work, host: HostDrivers, change: Change, made: str, step: RunningStep) -> None:
    assert change.wanted is not None  # noqa: S101 (see apply)
    assert change.found is not None  # noqa: S101 (see apply)
    guest, detail = work.testbed.guests[change.guest or ""], change.found.detail
    moved = tuple(
        GuestPort(bridge=nic.source, name=nic.target, mac=nic.mac)
        for nic in guest.state.interfaces
        if nic.attach == "ovs" and detail.bridges.get(nic.target) != nic.source
    )
    if moved:
        plan = SwitchChange(
            project=work.context.project,
            datapath_type=work.testbed.state.testbed_hosts[host.name].datapath_type,
            guests=moved,
        )
        await shielded(host.switches.change(plan))
        for port in moved:
            step.say(f"{port.name} is a port of {port.bridge}")
    state = change.wanted.spec.state
    if change.found.state == "paused" and state == "running":
        await host.hypervisor.resume_domain(detail.name)
        step.say(f"{guest.name} runs on")
    elif state == "paused" and change.found.state == "running":
        await shielded(host.hypervisor.suspend_domain(detail.name))
        step.say(f"{guest.name} is paused")
    if change.found.spec != change.wanted.spec.made:
        xml = await in_thread(domain_xml, work.context, work.testbed, guest)
        await shielded(host.hypervisor.define_domain(xml, made))
        await shielded(host.hypervisor.stamp_domain(detail.name, made))


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Shut a guest down, and forget its domain unless it is started again here."""
    (change,) = changes
    found, name = change.found, change.guest or change.ref.name
    assert found is not None  # noqa: S101 (what is removed was found)
    domain = found.detail.name
    with work.step(STAGE, f"stop:{name}", guest=name, host=host.name) as step:
        await _keep_snapshots(work, host, domain, work.view.identity(name))
        if found.state == "running":
            limit = work.timeout
            if not await host.hypervisor.shut_down_domain(domain, limit):
                step.say(f"did not shut down within {limit:g} s, is switched off", Level.WARNING)
        if found.state not in OFF:
            await shielded(host.hypervisor.destroy_domain(domain))
        work.running.discard(name)
        if change.verb in (Verb.REMOVE, Verb.MOVE):
            await shielded(host.hypervisor.undefine_domain(domain))


async def settle(work: Work, found: Sequence[Found]) -> None:
    """Store in domains of version 0.1 what the server knows that they were made from."""
    for each in found:
        if each.spec is not None and not each.detail.stamped:
            made = _domain_spec.encode(each.spec)
            await shielded(work.view.hosts[each.ref.host].hypervisor.stamp_domain(each.detail.name, made))


async def _keep_snapshots(work: Work, host: HostDrivers, domain: str, identity: str) -> None:
    """Libvirt forgets snapshots with the domain; their data stays in the disk, to be used again."""
    snapshots = await host.hypervisor.snapshots(domain)
    work.context.store.keep_snapshots(
        work.context.project, identity, [(each.name, each.xml) for each in snapshots]
    )


def limit(work: Work, host: str, *, removing: bool) -> int:
    """Return how many may boot, or shut down, at a time."""
    return SHUT_DOWNS if removing else work.boots(host)
