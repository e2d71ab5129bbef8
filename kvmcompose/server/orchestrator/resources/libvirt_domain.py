"""Guests that run as libvirt domains."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.artefact import shared_disk_path
from kvmcompose.core.commands import Up
from kvmcompose.core.deployment import Level
from kvmcompose.core.resource import Change, Found, Loss, Ref, Resource, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface.domains import ObservedDomain
from kvmcompose.providers.ovs.interface import FoundPort, GuestPort, SwitchChange
from kvmcompose.reconcile.difference import Asked
from kvmcompose.render.domain import DOMAIN_FORMAT
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.guest_clock import set_clock
from kvmcompose.server.orchestrator.privileges import domain_xml
from kvmcompose.server.orchestrator.resources import (
    _disk_difference,
    _domain_checks,
    _domain_difference,
    _domain_spec,
    disk,
    reachable,
)
from kvmcompose.server.orchestrator.resources._disk_difference import BOOT_DISK, DiskChange, DiskSize
from kvmcompose.server.orchestrator.resources._domain_spec import (
    ASLEEP,
    OFF,
    DomainDetail,
    DomainSpec,
    DomainWanted,
)
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.orchestrator.volumes import volumes_of

KINDS = ("libvirt-domain",)
AFTER = ("files", "disk", "container-volume")
STAGE = "guests"
#: The option of ``up`` that carries out changes that can wait.
AGAIN = "restart"
WAITS_FOR = "--restart"
RUNS = True
#: Guests that shut down at a time, on one host.
SHUT_DOWNS = 16
_DETACH_SECONDS = 30.0
_GIB = 1 << 30
#: What is asked for where a guest is to begin again.
_RECREATE = "up --recreate"

compare = _domain_difference.compare


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the domains of all guests that are started."""
    for guest in testbed.runnable:
        if guest.domain is None:
            continue
        ref = Ref(KINDS[0], guest.state.domain, guest.state.testbed_host)
        needs = [Ref("files", ref.host, ref.host)]
        needs += [Ref("disk", disk.name_of(guest, path), ref.host) for path in guest.disks]
        needs += [Ref("container-volume", each, ref.host) for each in volumes_of(testbed, guest)]
        if guest.golden is not None:
            needs.append(Ref("golden-image", guest.golden, testbed.main_host.name))
        spec = DomainWanted(made=spec_of(testbed, guest), state=testbed.intents.get(guest.name, "running"))
        yield Resource(ref=ref, spec=spec, needs=tuple(needs), guest=guest.name)


def spec_of(testbed: LoadedTestbed, guest: LoadedGuest) -> DomainSpec:
    """Return what a guest's domain is made from."""
    run = guest.domain
    assert run is not None  # noqa: S101 (see wanted)
    digests = testbed.digests
    xml = digests.get(run.domain_xml, "")
    known = testbed.has_files
    frame = _domain_spec.frame(xml, functools.partial(testbed.read, run.domain_xml)) if known else None
    return DomainSpec(
        version=DOMAIN_FORMAT if known else 0,
        guest=testbed.documents[guest.name],
        xml=xml,
        frame=frame.digest if frame is not None else "",
        disks=frame.disks if frame is not None else (),
        further=_further(run.files, digests, frame) if frame is not None else {},
        seed=digests.get(run.seed) if run.seed is not None else None,
        media=_digest(digests, guest, f"/{guest.state.identity}-media.iso"),
    )


def _further(
    files: Sequence[str], digests: Mapping[str, str], frame: _domain_spec.Frame
) -> dict[str, _domain_spec.FurtherDiskSpec]:
    """Return the further disks of a guest, with digests of the media that are in CD-ROMs."""
    found = dict(frame.further)
    for name, each in frame.further.items():
        if each.is_cdrom and each.file:
            path = next((path for path in files if each.file.endswith(f"/{path}")), each.file)
            found[name] = msgspec.structs.replace(each, medium=digests.get(path, path))
        else:
            found[name] = msgspec.structs.replace(each, file="")  # it follows from the name
    return found


def _digest(digests: Mapping[str, str], guest: LoadedGuest, end: str) -> str | None:
    for path in guest.run.files if guest.run is not None else ():
        if path.endswith(end) and path in digests:
            return digests[path]
    return None


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's domains on a host, with the bridges that their taps are ports of."""
    domains = await view.observed(host)
    if not domains:
        return ()
    ports = {
        port.name: (bridge.name, port)
        for bridge in (await view.switches(host)).values()
        for port in bridge.ports
    }
    answering: Sequence[str] = ()
    if any(testbed.is_in_userspace(host.name) for testbed in view.testbeds):
        taps = {nic.target for each in domains.values() for nic in each.nics if nic.interface_id}
        answering = await host.links.arp_answering(taps)
    # in a thread: a host may have hundreds
    return await in_thread(_described, view, host.name, domains, ports, frozenset(answering))


def _described(
    view: View,
    host: str,
    domains: Mapping[str, ObservedDomain],
    ports: Mapping[str, tuple[str, FoundPort]],
    answering: Collection[str],
) -> list[Found]:
    found = []
    for name, domain in domains.items():
        made = _made(view, name, domain)
        taps = {nic.mac: nic.target for nic in domain.nics}
        detail = DomainDetail(
            name=name,
            reason=domain.reason,
            taps=taps,
            bridges={tap: ports[tap][0] for tap in taps.values() if tap in ports},
            uuid=domain.uuid,
            agent=domain.agent,
            interface_ids={nic.mac: nic.interface_id for nic in domain.nics},
            nameless=tuple(
                nic.target
                for nic in domain.nics
                if nic.interface_id
                and nic.target in ports
                and ports[nic.target][1].interface_id != nic.interface_id
            ),
            links={nic.mac: nic.link for nic in domain.nics if nic.link != "up"},
            bandwidths={nic.mac: nic.bandwidth for nic in domain.nics if nic.bandwidth is not None},
            vlans={tap: vlan for tap in taps.values() if tap in ports and (vlan := ports[tap][1].vlan)},
            shaped=tuple(tap for tap in taps.values() if tap in ports and ports[tap][1].shaped),
            policed=tuple(tap for tap in taps.values() if tap in ports and ports[tap][1].policed),
            answering=tuple(tap for tap in taps.values() if tap in answering),
            disks=domain.disks,
            further=frozenset(domain.further),
            edited=domain.edited,
            stamped=bool(domain.made),
        )
        ref = Ref(KINDS[0], name, host)
        found.append(Found(ref=ref, spec=made, state=domain.state, guest=domain.guest, detail=detail))
    return found


def _made(view: View, name: str, domain: ObservedDomain) -> DomainSpec | None:
    """Return what a domain was made from, None where that is not known."""
    made = _domain_spec.decode(domain.made)
    if made is None:
        guest = view.deployed.by_domain.get(name) if view.deployed is not None else None
        if view.deployed is None or guest is None or guest.run is None:
            return None
        return spec_of(view.deployed, guest)  # version 0.1 stored it there
    for testbed in view.testbeds:
        known = testbed.documents.get(domain.guest)
        if known == made.guest:  # held once: of thousands of guests it takes much memory
            return msgspec.structs.replace(made, guest=known)
    return made


def asked(options: Up, wanted: Resource) -> Asked | None:
    """Guests can be recreated."""
    return (Verb.REPLACE, _RECREATE) if wanted.guest in options.recreate else None


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
        name = _step_name(found.state, change)
        with work.step(STAGE, f"{name}:{guest.name}", guest=guest.name, host=host.name) as step:
            await _update(work, host, change, step)
        return
    state = change.wanted.spec.state
    if state == "shut off":
        if change.verb is not Verb.REPAIR:
            # what the user switched off is still a guest of its host, which 'start' finds there
            await _define(work, host, guest, made)
        return
    if guest.name in work.up.recreate:
        await _reset_disk(work, host, guest)
    await _grow_off(work, host, guest, change)
    work.running.add(guest.name)
    await work.starter.start(guest, STAGE, made)
    if state == "paused":
        await shielded(host.hypervisor.domains.suspend(guest.state.domain))
    elif runtime_of(guest).is_waited_for(guest):
        # here, so that only so many guests boot at a time
        await work.starter.wait(guest, STAGE)
        work.waited_for.add(guest.name)
        work.view.put_mark(reachable.KINDS[0], guest.name, "yes")


async def _define(work: Work, host: HostDrivers, guest: LoadedGuest, made: str) -> None:
    """Define the domain of a guest that is to stay off."""
    with work.step(STAGE, f"define:{guest.name}", guest=guest.name, host=host.name):
        xml = await in_thread(domain_xml, work.context, work.testbed, guest)
        await shielded(host.hypervisor.domains.define(xml, made))


async def _reset_disk(work: Work, host: HostDrivers, guest: LoadedGuest) -> None:
    """Give a guest that is off an empty disk; its next start is the first of another life."""
    assert guest.run is not None  # noqa: S101 (see refusals)
    assert guest.run.boot_disk is not None  # noqa: S101 (see refusals)
    path = work.context.folder_on(host) / guest.run.boot_disk
    with work.step(STAGE, f"recreate:{guest.name}", guest=guest.name, host=host.name) as step:
        if await host.disks.pristine(path):
            step.skip()
        else:
            await shielded(host.disks.reset_overlay(path))


def _step_name(state: str, change: Change) -> str:
    wanted = change.wanted.spec.state if change.wanted is not None else ""
    alone = len(change.reasons) == 1 and state != wanted
    return ("pause" if wanted == "paused" else "resume") if alone else "update"


async def _update(work: Work, host: HostDrivers, change: Change, step: RunningStep) -> None:
    """Change a guest that runs."""
    assert change.wanted is not None  # noqa: S101 (see apply)
    assert change.found is not None  # noqa: S101 (see apply)
    guest, detail = work.testbed.guests[change.guest or ""], change.found.detail
    spec: DomainSpec = change.wanted.spec.made
    made: DomainSpec | None = change.found.spec
    changes = _domain_difference.alive(made, spec, detail)
    await _place(work, host, guest, detail, changes.place, step)
    if detail.answering:
        await shielded(host.links.leave_arp(detail.answering))
    xml = await in_thread(domain_xml, work.context, work.testbed, guest)
    for mac in changes.detach:
        if not await host.hypervisor.devices.detach_nic(detail.name, mac, _DETACH_SECONDS):
            raise DriverError(
                f"{guest.name} has not released the interface {mac} within {_DETACH_SECONDS:g} s",
                hint=f"kvm-compose restart {guest.name}",
            )
        step.say(f"interface {mac} is detached")
    for mac in changes.set:
        await shielded(host.hypervisor.devices.set_nic(detail.name, _domain_spec.nic_xml(xml, mac)))
    for mac in changes.attach:
        await shielded(host.hypervisor.devices.attach_nic(detail.name, _domain_spec.nic_xml(xml, mac)))
        step.say(f"interface {mac} is attached; it is configured at the latest when the guest starts again")
    await _change_disks(work, host, guest, detail.name, changes.disks, xml, step)
    if changes.memory_mb is not None:
        await shielded(host.hypervisor.devices.set_memory(detail.name, changes.memory_mb))
    if changes.cpus is not None:
        await shielded(host.hypervisor.devices.set_vcpus(detail.name, changes.cpus))
    await _set_state(host, guest, change.wanted.spec.state, change.found, step)
    if made is not None and (made != spec or detail.edited):
        await shielded(host.hypervisor.domains.define(xml, _domain_spec.encode(spec)))
        now = _domain_difference.after_alive(made, spec)
        await shielded(host.hypervisor.domains.stamp(detail.name, _domain_spec.encode(now)))
        if now.waiting:
            step.say(f"its new address or MTU is used from its next start: kvm-compose restart {guest.name}")


async def _change_disks(
    work: Work,
    host: HostDrivers,
    guest: LoadedGuest,
    domain: str,
    changes: DiskChange,
    xml: str,
    step: RunningStep,
) -> None:
    """Plug disks of a guest that runs in and out, change media of its CD-ROMs, and grow its disks."""
    devices = host.hypervisor.devices
    for name in changes.detach:
        if not await devices.detach_disk(domain, name, _DETACH_SECONDS):
            raise DriverError(
                f"{guest.name} has not released the disk {name} within {_DETACH_SECONDS:g} s",
                hint=f"unmount it in the guest, or: kvm-compose restart {guest.name}",
            )
        step.say(f"disk {name} is detached")
    for name in changes.attach:
        path = shared_disk_path(name)
        if (size := guest.shared_disks.get(path)) is not None:
            await shielded(host.disks.ready_raw(work.context.folder_on(host) / path, size))
        await shielded(devices.attach_disk(domain, name, _domain_spec.disk_xml(xml, name)))
        step.say(f"disk {name} is attached")
    for name in changes.media:
        await shielded(devices.change_medium(domain, name, _domain_spec.disk_xml(xml, name)))
        step.say(f"the CD-ROM {name} has another medium")
    for path, size in (await in_thread(_disk_bytes, work, guest, changes.grow)).items():
        file = f"{work.testbed.state.testbed_host_shared_config.project_folder}/{path}"
        shared = guest.domain.shared_disks.get(path) if guest.domain is not None else None
        if shared is not None and shared.readonly:  # which QEMU does not resize
            await shielded(host.disks.ready_raw(work.context.folder_on(host) / path, size))
            step.say(
                f"{path} grows; {guest.name} sees it from its next start: kvm-compose restart {guest.name}"
            )
            continue
        await shielded(devices.grow_disk(domain, file, size))
        step.say(f"{path} grows, data kept: the guest has to enlarge what is on it")


def _disk_bytes(work: Work, guest: LoadedGuest, sizes: Mapping[str, DiskSize]) -> dict[str, int]:
    """Return how large disks are to be in bytes, by their paths. Reads headers of images.

    Raises KvmComposeError, or OSError.
    """
    found = {}
    for name, size in sizes.items():
        path = guest.run.boot_disk if guest.run is not None and name == BOOT_DISK else None
        ends = f".{name}.qcow2", shared_disk_path(name)
        path = path or next((each for each in guest.disks if each.endswith(ends)), None)
        if path is not None:
            image = 0 if size.is_whole else work.testbed.source.image_size(path)
            found[path] = image + size.gigabytes * _GIB
    return found


async def _grow_off(work: Work, host: HostDrivers, guest: LoadedGuest, change: Change) -> None:
    """Grow the disks of a guest that is off, and ran when they were built."""
    assert change.wanted is not None  # noqa: S101 (see apply)
    found = change.found
    if found is None or found.spec is None or change.verb is not Verb.RESTART:
        return
    sizes = _disk_difference.of_disks(found.spec, change.wanted.spec.made, found.detail).grow
    for path, size in (await in_thread(_disk_bytes, work, guest, sizes)).items():
        if path in guest.shared_disks:
            continue  # the start of the guest sees to it
        there = work.context.folder_on(host) / path
        if (await host.disks.header(there)).virtual_size < size:
            await shielded(host.disks.grow(there, size))


async def _place(
    work: Work,
    host: HostDrivers,
    guest: LoadedGuest,
    detail: DomainDetail,
    macs: Collection[str],
    step: RunningStep,
) -> None:
    """Make taps of a running guest ports of their bridges."""
    moved = tuple(
        GuestPort(
            bridge=nic.source,
            name=detail.taps[nic.mac.lower()],
            mac=nic.mac,
            interface_id=detail.interface_ids.get(nic.mac.lower(), ""),
            vm_id=detail.uuid,
            integration=nic.attach == "ovn",
            vlan=nic.vlan,
        )
        for nic in guest.state.interfaces
        if nic.mac.lower() in macs
    )
    if not moved:
        return
    datapath = work.testbed.state.testbed_hosts[host.name].datapath_type
    plan = SwitchChange(project=work.context.project, datapath_type=datapath, guests=moved)
    await shielded(host.switches.change(plan))
    for port in moved:
        step.say(f"{port.name} is a port of {port.bridge}")


async def _set_state(
    host: HostDrivers, guest: LoadedGuest, wanted: str, found: Found, step: RunningStep
) -> None:
    if found.state == ASLEEP or (found.state == "paused" and wanted == "running"):
        await host.hypervisor.domains.resume(found.detail.name)
        step.say("resumed")
        if found.detail.agent and await set_clock(host.hypervisor.agents, guest):
            step.say("its clock is set")
    if found.state in ("running", ASLEEP) and wanted == "paused":
        await shielded(host.hypervisor.domains.suspend(found.detail.name))
        step.say("paused")


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Shut a guest down, and forget its domain unless it is started again here."""
    (change,) = changes
    found, name = change.found, change.guest or change.ref.name
    assert found is not None  # noqa: S101 (what is removed was found)
    domain = found.detail.name
    with work.step(STAGE, f"stop:{name}", guest=name, host=host.name) as step:
        if not work.is_second(change):
            await _keep_snapshots(work, host, domain, work.view.identity(name))
        if found.state == ASLEEP:
            # it does not hear the power button
            await host.hypervisor.domains.resume(domain)
        if found.state in ("running", ASLEEP):
            limit = work.timeout
            if not await host.hypervisor.domains.shut_down(domain, limit):
                step.say(f"did not shut down within {limit:g} s, is switched off", Level.WARNING)
        if found.state not in OFF:
            await shielded(host.hypervisor.domains.destroy(domain))
        if not work.is_second(change):
            work.running.discard(name)
        if change.verb in (Verb.REMOVE, Verb.MOVE, Verb.REPLACE):
            await shielded(host.hypervisor.domains.undefine(domain))


async def settle(work: Work, found: Sequence[Found]) -> None:
    """Store in domains of version 0.1 what the server knows that they were made from."""
    for each in found:
        if each.spec is not None and not each.detail.stamped:
            made = _domain_spec.encode(each.spec)
            await shielded(work.view.hosts[each.ref.host].hypervisor.domains.stamp(each.detail.name, made))


async def _keep_snapshots(work: Work, host: HostDrivers, domain: str, identity: str) -> None:
    """Libvirt forgets snapshots with the domain; their data stays in the disk, to be used again."""
    snapshots = await host.hypervisor.snapshots.of(domain)
    work.context.store.keep_snapshots(
        work.context.project, identity, [(each.name, each.xml) for each in snapshots]
    )


def boots(change: Change) -> bool:
    """Return whether the guest starts: it is not only changed while it runs."""
    if change.verb in (Verb.UPDATE, Verb.REPAIR):
        return change.found is None or change.found.state in OFF
    return change.verb is not Verb.REMOVE


def loses(change: Change) -> Loss | None:
    """Return whether a guest is to begin again, or leaves the TPM that libvirt keeps on its host."""
    if any(each.subject == _RECREATE for each in change.reasons):
        return Loss.DISK
    made = change.found.spec if change.found is not None else None
    if change.verb is not Verb.MOVE or not isinstance(made, DomainSpec):
        return None
    has_tpm = any(isinstance(each, dict) and each.get("tpm") for each in made.guest.values())
    return Loss.TPM if has_tpm else None


def limit(work: Work, host: str, *, removing: bool) -> int:
    """Return how many may boot, or shut down, at a time."""
    return SHUT_DOWNS if removing else work.boots(host)
