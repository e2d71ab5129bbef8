"""What the hosts of a testbed report of its guests, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.libvirt.interface import DomainEvent
from kvmcompose.server.orchestrator.context import Context

#: How many reports wait for the reader; then the drivers do.
_WAITING = 100


async def guest_events(context: Context) -> AsyncGenerator[DomainEvent]:
    """Yield the state of each guest, and then each other state that one gets into, of all hosts.

    Raises RefusedError when nothing was ever built, DriverError when a host reports nothing.
    """
    testbed = await context.read_current()
    reports: asyncio.Queue[DomainEvent | KvmComposeError] = asyncio.Queue(_WAITING)

    async def listen(host: HostDrivers) -> None:
        try:
            async with aclosing(host.hypervisor.events(context.project)) as events:
                async for event in events:
                    await reports.put(event)
        except KvmComposeError as error:
            await reports.put(error)

    tasks = [asyncio.create_task(listen(host)) for host in context.hosts(testbed).values()]
    try:
        while True:
            report = await reports.get()
            if isinstance(report, KvmComposeError):
                raise report
            yield report
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
