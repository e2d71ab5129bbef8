"""How a testbed is doing, and how its guests are reached."""

from __future__ import annotations

import time
from collections.abc import Collection

from kvmcompose.core.deployment import GuestAccess, GuestStatus, HostAccess, Phase, TestbedStatus
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.model import Host
from kvmcompose.effects.threads import in_thread
from kvmcompose.providers.libvirt.interface import DomainState
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.differences import differences as changed_since
from kvmcompose.server.orchestrator.testbed import KNOWN_HOSTS, Deployed, LoadedGuest, LoadedTestbed


class Meter:
    """Turns CPU time into a share, by remembering the last look at each guest."""

    def __init__(self) -> None:
        self._looks: dict[tuple[str, str], tuple[float, float]] = {}

    def share(self, project: str, domain: DomainState) -> float | None:
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
    domains, silent = await context.query(testbed, testbed.state.testbed_hosts)
    if len(silent) == len(testbed.state.testbed_hosts):
        raise next(iter(silent.values()))
    guests = [
        await _guest_status(context, testbed, guest, domains.get(name), meter)
        if guest.run is None or guest.state.testbed_host not in silent
        else _unknown(guest)
        for name, guest in testbed.guests.items()
    ]
    differences = [f"host {name}: {error.message}" for name, error in silent.items()]
    differences += await in_thread(_differences, context, domains, silent)
    return TestbedStatus(
        deployment=context.deployment,
        guests=tuple(guests),
        differences=tuple(differences),
    )


def _unknown(guest: LoadedGuest) -> GuestStatus:
    """A guest whose host does not answer."""
    return GuestStatus(
        name=guest.name,
        kind=guest.state.kind,
        host=guest.state.testbed_host,
        state="unknown",
        address=guest.address if guest.address != "dynamic" else None,
        golden_image=guest.golden,
    )


async def _guest_status(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, domain: DomainState | None, meter: Meter
) -> GuestStatus:
    if domain is not None:
        state = domain.state
    elif guest.run is None:
        state = "unsupported"
    else:
        state = "golden" if guest.state.is_golden_image else "absent"
    runs = domain is not None and domain.state == "running"
    address = guest.address
    if address == "dynamic":
        address = await context.address(guest, testbed) if runs else None
    return GuestStatus(
        name=guest.name,
        kind=guest.state.kind,
        host=guest.state.testbed_host,
        state=state,
        address=address,
        golden_image=guest.golden,
        uptime=domain.uptime if domain is not None and runs else None,
        cpu=meter.share(context.project, domain) if domain is not None and runs else None,
        memory_mb=domain.memory_mb if domain is not None and runs else None,
    )


def _differences(context: Context, domains: dict[str, DomainState], silent: Collection[str]) -> list[str]:
    found = []
    if context.deployment.state is Phase.UP:
        found = [
            f"guest {guest.name} does not run"
            for guest in context.current.runnable
            if guest.state.testbed_host not in silent
            and (guest.name not in domains or domains[guest.name].state != "running")
        ]
    if context.deployed is None:
        return found
    try:
        built = Deployed.of(context.built)
    except KvmComposeError as error:
        return [*found, error.message]
    live = {name for name, domain in domains.items() if domain.state == "running"}
    return found + changed_since(context.deployed, built, known=domains.keys(), live=live)


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
    for guest in testbed.guests.values():
        if guest.run is None:
            continue
        address = guest.address
        if address == "dynamic":
            address = await context.address(guest, testbed)
        host = testbed.state.testbed_hosts[guest.state.testbed_host]
        found.append(
            GuestAccess(
                name=guest.name,
                host=guest.state.testbed_host,
                domain=guest.state.hostname,
                libvirt_uri=host.libvirt_uri,
                user=guest.run.username,
                address=address,
                identity_file=str(testbed.identity_file),
                known_hosts=str(testbed.folder / KNOWN_HOSTS),
                via=None if host.is_main_host else _via(context, host),
                host_key_alias=guest.state.hostname,
                groups=tuple(
                    dict.fromkeys(
                        nic.bridge
                        for nic in guest.state.interfaces
                        if nic.bridge != testbed.network_plan.network.name
                    )
                ),
            )
        )
    return found
