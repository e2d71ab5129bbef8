"""Guests that libvirt runs, which are entered by SSH."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from kvmcompose.core.access import CONSOLE_BYTES, ConsolePart, GuestTerminals
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.instance import HostMeasures, InstanceEvent
from kvmcompose.core.resource import Ref
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Pieces
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.guest.entrance import SshEntrance
from kvmcompose.providers.guest.interface import Entrance, Login
from kvmcompose.providers.libvirt.interface import HypervisorFacts
from kvmcompose.providers.libvirt.interface.domains import DomainState
from kvmcompose.render.domain import console_log
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.privileges import domain_xml
from kvmcompose.server.orchestrator.runtimes import _agent, _domain_snapshots, _ready
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

#: How long a guest may take to be reachable, in seconds, where its YAML does not say.
READY_SECONDS = {"kvm": 300.0, "qemu": 900.0}

is_entered_by_agent = _agent.is_entered_by_agent
is_waited_for = _ready.is_waited_for
is_in_snapshots = _domain_snapshots.is_in_snapshots
check_snapshot = _domain_snapshots.check_snapshot
snapshot = _domain_snapshots.snapshot
snapshots = _domain_snapshots.snapshots
kept_snapshots = _domain_snapshots.kept_snapshots


def instance(guest: LoadedGuest) -> Ref:
    """Return the reference of a guest's domain."""
    return Ref("libvirt-domain", guest.state.domain, guest.state.testbed_host)


async def instances(context: Context, host: HostDrivers) -> Mapping[str, DomainState]:
    """Return the project's domains on a host."""
    return await host.hypervisor.domains.states(context.project)


async def measure(host: HostDrivers) -> HostMeasures:
    """Return what the domains of all projects on a host have used."""
    return await host.hypervisor.measure()


async def size(_context: Context, host: HostDrivers) -> HypervisorFacts:
    """Return what libvirt says of a host."""
    return await host.hypervisor.facts()


def events(context: Context, host: HostDrivers) -> AsyncGenerator[InstanceEvent]:
    """Yield what libvirt reports of the project's domains on a host."""
    return host.hypervisor.domains.events(context.project)


async def entrance(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> Entrance:
    """Return the way into a guest: by SSH if it has an address, else by its agent."""
    if _agent.is_entered_by_agent(guest):
        return await _agent.agent_entrance(context, testbed, guest)
    return SshEntrance(
        context.shell, await _login(context, testbed, guest, await _address(context, testbed, guest))
    )


async def get(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, path: str
) -> AsyncGenerator[bytes]:
    """Yield a tar archive of a file or folder of a guest that is entered by its agent."""
    inside = await _by_agent(context, testbed, guest)
    async with aclosing(inside.pack(path)) as archive:
        async for piece in archive:
            yield piece


async def put(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, folder: str, archive: Pieces
) -> None:
    """Extract a tar archive in a folder of a guest that is entered by its agent."""
    await (await _by_agent(context, testbed, guest)).unpack(folder, archive)


async def _by_agent(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> _agent.AgentEntrance:
    if not _agent.is_entered_by_agent(guest):
        raise RefusedError(f"{guest.name} is entered by SSH", hint="scp copies its files: kvm-compose cp")
    return await _agent.agent_entrance(context, testbed, guest)


async def reach(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> socket.socket:
    """Return a connection to the guest's SSH server."""
    return await context.shell.reach(
        await _login(context, testbed, guest, await _address(context, testbed, guest))
    )


async def _address(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> str:
    address = await context.address(guest, testbed)
    if address is None:
        with suppress(DriverError):
            address = await context.told_address(guest, testbed)
    if address is None:
        raise RefusedError(f"{guest.name} has no address that can be reached from here")
    return address


async def _login(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, address: str) -> Login:
    return await in_thread(testbed.login, guest, address, context.gate(guest, testbed))


async def wait(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> None:
    """Wait until a guest is ready: what its ``ready`` names, or SSH and its first-boot set-up."""
    run = guest.run
    assert run is not None  # noqa: S101 (only guests that run are waited for)
    limit = run.ready_timeout or READY_SECONDS.get(guest.state.virt_type, READY_SECONDS["qemu"])
    domains = context.host_of(guest, testbed).hypervisor.domains
    ready = asyncio.create_task(_ready.wait_ready(context, testbed, guest, limit))
    off = asyncio.create_task(domains.wait_off(guest.state.domain))
    try:
        await asyncio.wait([ready, off], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            return
        off.result()
        raise DriverError(
            f"{guest.name} went off while it was being waited for",
            hint=f"its console: {console_log(guest.state.identity)} in the project folder",
        )
    finally:
        for task in (ready, off):
            task.cancel()
        await asyncio.gather(ready, off, return_exceptions=True)


async def console(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, after: int | None, wait: int
) -> ConsolePart:
    """Return a part of what the guest's serial console has printed."""
    host = context.host_of(guest, testbed)
    path = context.folder_on(host) / console_log(guest.state.identity)
    start, data = await host.console_logs.read_from(path, after, CONSOLE_BYTES, wait=wait)
    return ConsolePart(start=start, data=data)


async def console_end(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, count: int
) -> tuple[str, str]:
    """Return the path of the log of the console in the project folder, and its last lines."""
    host, path = context.host_of(guest, testbed), console_log(guest.state.identity)
    return path, await host.console_logs.read_tail(context.folder_on(host) / path, count)


async def terminals(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> GuestTerminals:
    """Return that there is a console, and the kind of the screen that its domain has."""
    screen = await context.host_of(guest, testbed).hypervisor.consoles.screen(guest.state.domain)
    return GuestTerminals(console="input", screen=screen.kind if screen is not None else None)


async def open_console(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, *, force: bool
) -> socket.socket:
    """Return the guest's serial console."""
    consoles = context.host_of(guest, testbed).hypervisor.consoles
    return await consoles.open(guest.state.domain, force=force)


async def open_screen(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> socket.socket:
    """Return a connection to the guest's screen."""
    consoles = context.host_of(guest, testbed).hypervisor.consoles
    screen = await consoles.screen(guest.state.domain)
    if screen is None:
        raise RefusedError(
            f"{guest.name} has no screen", hint=f"its serial console: kvm-compose console {guest.name}"
        )
    if screen.kind != "vnc":
        raise RefusedError(f"the screen of {guest.name} is {screen.kind}, and only VNC can be shown")
    if not screen.port:
        raise RefusedError(
            f"the screen of {guest.name} is served at no port: is it off?",
            hint=f"kvm-compose start {guest.name}",
        )
    return await consoles.open_screen(screen)


def check_privileges(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> None:
    """Check the guest's domain XML."""
    domain_xml(context, testbed, guest)
