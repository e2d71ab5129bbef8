"""What is in the way of starting guests."""

from __future__ import annotations

from collections.abc import Sequence

from kvmcompose.core.deployment import Level
from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change
from kvmcompose.effects.files import expand
from kvmcompose.effects.keys import default_keys
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.resources import _hardware_checks, _platform_checks
from kvmcompose.server.orchestrator.resources._member_mounts import member_mounts
from kvmcompose.server.orchestrator.resources._work import Refusal, Work


async def refusals(work: Work, changes: Sequence[Change]) -> list[Refusal]:
    """Return what is in the way, and warn of what may be."""
    return [
        *await work.on_hosts(lambda host: _check_names(work, host)),
        *await work.on_hosts(lambda host: _platform_checks.check(work, host)),
        *await _hardware_checks.refusals(work, changes),
        *member_mounts(work, "share", (each for each in work.testbed.runnable if each.domain is not None)),
        *_check_reach(work),
        *await _check_key(work),
        *_check_disks(work),
        *await _check_recreated(work),
        *await _check_shared_disks(work, changes),
    ]


async def _check_names(work: Work, host: HostDrivers) -> None:
    testbed = work.testbed
    guests = testbed.by_host.get(host.name, ())
    domains = [guest.state.domain for guest in guests if guest.domain is not None]
    network = testbed.network_plan.network
    networks = [network.name] if network is not None and network.host == host.name else []
    if not domains and not networks:
        return
    foreign = await host.hypervisor.foreign(work.context.project, domains, networks)
    if foreign:
        raise DriverError(
            f"names are taken by other libvirt objects: {', '.join(foreign)}",
            hint="virsh dumpxml (net-dumpxml) shows it; --project-name gives this project another name",
        )


def _check_reach(work: Work) -> list[Refusal]:
    reasons: list[Refusal] = []
    unreachable: list[str] = []
    for guest in work.testbed.runnable:
        run = guest.domain
        if run is None or guest.address is not None or (run.ready is not None and run.ready.port is None):
            continue
        if run.ready is not None:
            why = f"{guest.name} is waited for at port {run.ready.port}, but cannot be reached from here"
            reasons.append((why, "set testbed_options.management to true, or use ready: {console: TEXT}"))
        elif run.setup_scripts or run.run_scripts:
            reasons.append(
                (
                    f"{guest.name} has scripts to run, but cannot be reached from the main host",
                    "set testbed_options.management to true, or 'ready: agent' if its image has that",
                )
            )
        elif run.cloud_init:
            unreachable.append(guest.name)
    if unreachable:
        work.log.say(
            f"cannot be reached from the main host: {first_few(unreachable)}; started, but not waited for",
            Level.WARNING,
            stage="check",
        )
    return reasons


def _check_disks(work: Work) -> list[Refusal]:
    if work.up.provision and work.running:
        running = ", ".join(sorted(work.running))
        return [(f"no new disks while guests run on them: {running}", "kvm-compose down")]
    return []


async def _check_recreated(work: Work) -> list[Refusal]:
    """Return the guests that are to have another disk, and cannot."""
    found: list[Refusal] = []
    for name in dict.fromkeys(work.up.recreate):
        guest = work.testbed.guests[name]
        if guest.domain is None:
            continue
        clones = [each.name for each in work.testbed.clones(name)]
        disk = guest.run.boot_disk if guest.run is not None else None
        if guest.state.is_golden_image:
            why = f"{name} is a golden image, and disks of clones are on top of its disk"
            found.append((why, f"recreate these: kvm-compose up {_options('--recreate', clones)}"))
        elif disk is None:
            found.append((f"{name} has no disk of its own to recreate", None))
        elif await in_thread(work.testbed.source.backing_file, disk) is None:
            why = f"{name} cannot be recreated: the content of its disk exists nowhere else"
            found.append((why, f"kvm-compose down && kvm-compose generate --provision {name}"))
        elif name in work.testbed.intents:
            found.append(
                (f"{name} is {work.testbed.intents[name]}, as was asked for", f"kvm-compose start {name}")
            )
    return found


async def _check_shared_disks(work: Work, changes: Sequence[Change]) -> list[Refusal]:
    """Return the disks of guests that change, or start, that are longer than they are to be."""
    found: dict[str, Refusal] = {}
    for change in changes:
        guest = work.testbed.guests.get(change.guest or "")
        if guest is None or change.wanted is None or work.up.provision:
            continue
        host = work.view.hosts[guest.state.testbed_host]
        for path, size in guest.shared_disks.items():
            if path in found:
                continue
            try:
                length = await host.disks.length(work.context.folder_on(host) / path)
            except DriverError:
                continue  # it is made, or sent, by this action
            if length > size:
                now = length >> 30
                why = f"{path} has {now} GiB, and disks never shrink: {now} -> {size >> 30}"
                found[path] = (why, f"size_gigabytes: {now} keeps it; up --provision makes a new disk")
    return list(found.values())


def _options(option: str, names: Sequence[str]) -> str:
    return " ".join(f"{option} {name}" for name in names[:20])


async def _check_key(work: Work) -> list[Refusal]:
    testbed = work.testbed
    if not any(guest.domain and guest.domain.cloud_init for guest in testbed.guests.values()):
        return []
    key = testbed.identity_file
    if await in_thread(testbed.has_key):
        return []
    named = "kvm-compose-config.json names it (ssh_private_key_location): put it there"
    ours = key == expand(default_keys().ssh_private_key_location)
    if ours and testbed.source.before_build:
        return []
    hint = "kvm-compose generate makes it" if ours else named
    return [(f"the guests' private key is not there: {key}", hint)]


def warn_of_memory(work: Work) -> None:
    """Warn where the guests of a host may use more memory than it has."""
    for name, facts in work.facts.items():
        wanted = sum(
            guest.run.memory_mb
            for guest in work.testbed.by_host.get(name, ())
            if guest.run is not None and not guest.state.is_golden_image
        )
        if wanted > facts.memory_mb:
            work.log.say(
                f"{name} has {facts.memory_mb} MiB of memory; its guests may use {wanted} MiB",
                Level.WARNING,
                stage="check",
            )
