"""How guests of libvirt are waited for: what ``ready`` names, or SSH."""

from __future__ import annotations

import asyncio

import msgspec

from kvmcompose.core.ready import Ready
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.render.domain import console_log
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.runtimes import _agent
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

_LEASE_SECONDS = 0.5


def is_waited_for(guest: LoadedGuest) -> bool:
    """Return whether something says when a guest is ready, and the main host can notice that."""
    domain = guest.domain
    if domain is None:
        return False
    wanted = domain.ready
    if wanted is None:
        return domain.cloud_init and guest.address is not None
    return wanted.is_anything and (wanted.port is None or guest.address is not None)


async def wait_ready(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, seconds: float) -> None:
    """Wait until a guest is ready. Raises DriverError after ``seconds``, with the last cause."""
    wanted = guest.domain.ready if guest.domain is not None else None
    if wanted is None or wanted.port is not None:
        await _by_network(context, testbed, guest, wanted, seconds)
        return
    if wanted.console is not None:
        await _by_console(context, testbed, guest, wanted.console, seconds)
        return
    if wanted.agent:
        await _by_agent(context, testbed, guest, seconds)


async def _by_network(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, wanted: Ready | None, seconds: float
) -> None:
    """Wait for SSH and the first-boot set-up, or for the port that is ``wanted``."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (address := await context.address(guest, testbed)) is None:
        if loop.time() >= end:
            raise DriverError(
                f"{guest.name} has not asked for an address by DHCP",
                hint="whether it has booted, its console shows: kvm-compose console",
            )
        await asyncio.sleep(_LEASE_SECONDS)
    login = await in_thread(testbed.login, guest, address, context.gate(guest, testbed))
    left = max(1.0, end - loop.time())
    if wanted is None or wanted.port is None:
        await context.shell.wait_ready(login, left)
        return
    login = msgspec.structs.replace(login, port=wanted.port)
    await context.shell.wait_answer(login, left, wanted.http)


async def _by_agent(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, seconds: float) -> None:
    """Wait for the agent; where scripts are to run, also for the first-boot set-up, which brings them."""
    end = asyncio.get_running_loop().time() + seconds
    await context.host_of(guest, testbed).hypervisor.agents.wait(guest.state.domain, seconds)
    run = guest.domain
    if run is not None and (run.setup_scripts or run.run_scripts):
        entrance = await _agent.agent_entrance(context, testbed, guest)
        await entrance.wait_ready(max(1.0, end - asyncio.get_running_loop().time()))


async def _by_console(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, text: str, seconds: float
) -> None:
    host = context.host_of(guest, testbed)
    path = console_log(guest.state.identity)
    try:
        async with asyncio.timeout(seconds):
            await host.console_logs.wait_for_text(context.folder_on(host) / path, text)
    except TimeoutError:
        raise DriverError(
            f"{guest.name} was not ready within {seconds:.0f} s: it has not printed {text!r} on its console",
            hint=f"what it has printed: {path}; many systems print nothing there without the kernel's option"
            " console=ttyS0",
        ) from None
