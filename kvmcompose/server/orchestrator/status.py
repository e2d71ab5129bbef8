"""How a testbed is doing, and how its guests are reached."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import msgspec

from kvmcompose.core.access import EngineAccess, GuestAccess, HostAccess
from kvmcompose.core.condition import DEGRADED
from kvmcompose.core.deployment import GuestStatus, Phase, StatusDifference, TestbedStatus
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import Instance
from kvmcompose.core.model import Host
from kvmcompose.core.resource import Change, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.reconcile.wording import because, causes, difference_text, is_drift, is_outdated, left_text
from kvmcompose.server.orchestrator.agent_addresses import Addresses
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.plan import Differences, plan
from kvmcompose.server.orchestrator.resources import healthy, providers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.testbed import KNOWN_HOSTS, LoadedGuest, LoadedTestbed


class Meter:
    """Turns CPU time into a share, by remembering the last look at each guest."""

    def __init__(self) -> None:
        self._looks: dict[tuple[str, str], tuple[float, float]] = {}

    def share(self, project: str, domain: Instance) -> float | None:
        """CPUs kept busy since the last look, or since the guest's start when this is the first."""
        if domain.cpu_seconds is None:
            return None
        now = time.monotonic()
        key = (project, domain.name)
        then, used = self._looks.get(key, (None, 0.0))
        self._looks[key] = (now, domain.cpu_seconds)
        if then is None or domain.cpu_seconds < used:
            return domain.cpu_seconds / domain.uptime if domain.uptime else None
        return (domain.cpu_seconds - used) / (now - then) if now > then else None


async def status(context: Context, meter: Meter) -> TestbedStatus:
    """The deployment and its guests as they are now. Raises RefusedError when nothing was ever built."""
    testbed = await context.read_current()
    built, problem = await _built(context)
    deployed = testbed if context.deployed is not None else None
    testbeds = [each for each in (built, deployed) if each is not None]
    hosts = dict(context.hosts(testbed))
    view = View(context, testbeds, hosts)
    is_going = _is_going(context)
    planned = await plan(view, None if is_going else built or testbed)
    if len(planned.silent) == len(hosts):
        raise next(iter(planned.silent.values()))
    domains: dict[str, Instance] = {}
    for name, host in hosts.items():
        if name not in planned.silent:
            domains |= {each.guest: each for each in await view.measured(host)}
    others = dict.fromkeys((each.guest for each in testbed.resources if each.guest), "absent")
    others |= {each.guest: each.state for each in planned.found if each.guest in others and each.state}
    addresses = await _addresses(view, testbed, domains, planned.silent)
    told = await _told(view, testbed, addresses, planned.silent)
    share = functools.partial(meter.share, context.project)
    # in a thread: a testbed may have thousands
    guests = await in_thread(_guests, testbed, planned, domains, others, addresses, told, share)
    differing = [
        StatusDifference(text=f"host {name}: {error.message}", kind="host", host=name, drift=True)
        for name, error in planned.unseen
    ]
    differing += [StatusDifference(text=each, kind="project") for each in problem]
    found: Sequence[Change] = ()
    if context.deployment.state in (Phase.UP, Phase.FAILED) and not problem:
        found = await in_thread(causes, planned.changes)
        differing += [
            _difference(each, context.project, is_going=is_going)
            for each in found
            if is_going or not _is_forgotten(each)
        ]
    deployment = context.deployment
    if deployment.state is Phase.UP and (any(planned.unseen) or any(map(is_drift, found))):
        drift = sum(each.drift for each in differing)
        deployment = msgspec.structs.replace(deployment, condition=DEGRADED, drift=drift)
    return TestbedStatus(
        deployment=deployment,
        guests=guests,
        differences=tuple(each.text for each in differing),
        differing=tuple(differing),
    )


def _difference(change: Change, project: str, *, is_going: bool) -> StatusDifference:
    """Return how something differs, with what it is of."""
    return StatusDifference(
        text=left_text(change) if is_going else difference_text(change),
        kind=change.ref.kind,
        host=change.ref.host or None,
        guest=change.guest,
        segment=providers()[change.ref.kind].segment_of(project, change),
        drift=is_drift(change),
    )


def _guests(
    testbed: LoadedTestbed,
    planned: Differences,
    domains: Mapping[str, Instance],
    others: Mapping[str, str],
    addresses: Mapping[str, str | None],
    told: Mapping[str, Addresses],
    share: Callable[[Instance], float | None],
) -> tuple[GuestStatus, ...]:
    """The status of each guest; of those that no runtime runs, ``others`` are the states."""
    outdated = {change.guest: change for change in planned.changes if is_outdated(change)}
    unknown = {name for each in planned.blind for name in each.guests}
    health = {each.guest: each.state for each in planned.found if each.ref.kind == healthy.KINDS[0]}
    return tuple(
        _guest_status(
            testbed,
            guest,
            domains.get(name) or others.get(name),
            addresses.get(name),
            told.get(guest.state.domain, {}),
            share,
            outdated.get(name),
            health.get(name),
        )
        if guest.run is None or not (guest.state.testbed_host in planned.silent or name in unknown)
        else _unknown(guest)
        for name, guest in testbed.guests.items()
    )


def _is_forgotten(change: Change) -> bool:
    """Return whether nothing changes but what is known of a guest, as it is not waited for any more."""
    return change.verb is Verb.REMOVE and providers()[change.ref.kind].ONLY_KNOWN


def _is_going(context: Context) -> bool:
    """Return whether all of it was to go, and something was left."""
    last = context.store.action(context.deployment.last_action_uuid or "")
    failed = context.deployment.failed_command == "down"
    return failed and last is not None and last.command == "down" and not last.options.get("guests")


async def _built(context: Context) -> tuple[LoadedTestbed | None, list[str]]:
    """What lies in the project folder, or why that cannot be used."""
    try:
        return await context.read_built(), []
    except KvmComposeError as error:
        return None, [error.message]


async def _addresses(
    view: View, testbed: LoadedTestbed, domains: Mapping[str, Instance], silent: Collection[str]
) -> Mapping[str, str | None]:
    """The addresses of guests; of those with ``ip: dynamic`` as they run, if the network can be asked."""
    network = testbed.network_plan.network
    asks = network is not None and network.host not in silent
    leases: Mapping[str, str] = {}
    if network is not None and asks and testbed.dynamic:
        leases = await view.leases(view.hosts[network.host], network.name)
    return await view.context.addresses(
        [
            guest
            for name, guest in testbed.guests.items()
            if guest.address != "dynamic" or (asks and name in domains and domains[name].state == "running")
        ],
        testbed,
        leases,
    )


def _lacking(
    testbed: LoadedTestbed, addresses: Mapping[str, str | None], silent: Collection[str]
) -> Mapping[str, LoadedGuest]:
    """Return the guests, by domain, that have an interface of which no address is known."""
    return {
        guest.state.domain: guest
        for guest in testbed.runnable
        if guest.domain is not None
        and guest.state.testbed_host not in silent
        and addresses.get(guest.name) in (None, "dynamic")  # what DHCP has given it is known
        and not all(nic.addresses for nic in guest.state.interfaces)
    }


async def _told(
    view: View, testbed: LoadedTestbed, addresses: Mapping[str, str | None], silent: Collection[str]
) -> Mapping[str, Addresses]:
    """What agents tell of guests that run, and have an interface of which no address is known."""
    # in a thread: a testbed may have thousands
    lacking = await in_thread(_lacking, testbed, addresses, silent)
    asked = []
    for host in sorted({guest.state.testbed_host for guest in lacking.values()}):
        with suppress(KvmComposeError):
            drivers = view.hosts[host]
            found = (await view.observed(drivers)).values()
            there = [each.name for each in found if each.agent and each.state == "running"]
            asked += [(drivers.hypervisor.agents, name) for name in there if name in lacking]
    return await view.context.agents.of(asked)


def _unknown(guest: LoadedGuest) -> GuestStatus:
    """A guest whose host does not answer."""
    return GuestStatus(
        name=guest.name,
        kind=guest.state.kind,
        host=guest.state.testbed_host,
        state="unknown",
        address=guest.address if guest.address != "dynamic" else None,
        addresses=_all_addresses(guest),
        golden_image=guest.golden,
        runtime=_runtime(guest),
    )


def _runtime(guest: LoadedGuest) -> str:
    """What runs it; the default where nothing does."""
    return guest.run.runtime if guest.run is not None else "libvirt"


def _all_addresses(guest: LoadedGuest, told: Addresses | None = None) -> tuple[str, ...]:
    """All addresses of a guest: those of interfaces whose own are not known are what its agent has told."""
    return tuple(
        address
        for nic in guest.state.interfaces
        for address in nic.addresses or (told or {}).get(nic.mac.lower(), ())
    )


def _guest_status(
    testbed: LoadedTestbed,
    guest: LoadedGuest,
    there: Instance | str | None,
    address: str | None,
    told: Addresses,
    share: Callable[[Instance], float | None],
    outdated: Change | None,
    health: str | None,
) -> GuestStatus:
    """The status of a guest; of one that no runtime runs, ``there`` is only its state."""
    domain = there if isinstance(there, Instance) else None
    if domain is not None:
        state = domain.state
    elif isinstance(there, str):
        state = there
    elif guest.run is None:
        state = "unsupported"
    else:
        state = "golden" if guest.state.is_golden_image else "absent"
    runs = domain is not None and domain.state == "running"
    return GuestStatus(
        name=guest.name,
        kind=guest.state.kind,
        host=guest.state.testbed_host,
        state=state,
        reason=domain.reason if domain is not None else None,
        health=health,
        asked=testbed.intents.get(guest.name),
        address=address,
        addresses=_all_addresses(guest, told),
        golden_image=guest.golden,
        uptime=domain.uptime if domain is not None and runs else None,
        cpu=share(domain) if domain is not None and runs else None,
        memory_mb=domain.memory_mb if domain is not None and runs else None,
        used_mb=domain.used_mb if domain is not None and runs else None,
        outdated=tuple(because(each) for each in outdated.reasons) if outdated is not None else (),
        given_mb=(guest.run.memory_mb or None) if guest.run is not None else None,
        runtime=_runtime(guest),
    )


def _via(context: Context, host: Host) -> HostAccess:
    key = host.identity_file
    return HostAccess(
        address=host.ip,
        user=host.user,
        port=host.ssh_port,
        identity_file=str(context.files.key_path(key)) if key is not None else None,
        host_key=host.host_key,
    )


async def access(context: Context) -> list[GuestAccess]:
    """How each guest is reached. Raises RefusedError when nothing was ever built."""
    testbed = await context.read_current()
    found = []
    addresses = await context.addresses(testbed.guests.values(), testbed)
    addresses |= await context.told_addresses(
        [each for each in testbed.dynamic if addresses[each.name] is None], testbed
    )
    engines: dict[tuple[str, str], EngineAccess | None] = {}
    for guest in testbed.guests.values():
        if guest.run is None:
            continue
        where = guest.run.runtime, guest.state.testbed_host
        if where not in engines:
            engines[where] = await runtime_of(guest).engine(context, testbed, where[1])
        host = testbed.state.testbed_hosts[guest.state.testbed_host]
        found.append(
            GuestAccess(
                name=guest.name,
                host=guest.state.testbed_host,
                domain=guest.state.domain,
                libvirt_uri=host.libvirt_uri,
                user=guest.run.username,
                address=addresses[guest.name],
                identity_file=str(testbed.identity_file),
                known_hosts=str(testbed.folder / KNOWN_HOSTS),
                via=None if host.is_main_host else _via(context, host),
                host_key_alias=guest.state.domain,
                hostname=guest.state.hostname,
                through_server=guest.management is not None,
                runtime=guest.run.runtime,
                engine=engines[where],
                by_agent=runtime_of(guest).is_entered_by_agent(guest),
                groups=tuple(
                    dict.fromkeys(nic.bridge for nic in guest.state.interfaces if nic.attach != "network")
                ),
            )
        )
    return found
