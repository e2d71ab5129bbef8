"""What the hosts of a testbed report of its guests, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import InstanceEvent
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.runtimes import Runtime, runtimes_of

#: How many reports wait for the reader; then the drivers do.
_WAITING = 100


async def guest_events(
    context: Context, runtimes: Collection[str] | None = None
) -> AsyncGenerator[InstanceEvent]:
    """Yield the state of each guest, and then each other state that one gets into, of all hosts.

    ``runtimes`` are the names of those whose guests are listened for, None: all. Raises RefusedError when
    nothing was ever built, DriverError when a host reports nothing.
    """
    testbed = await context.read_current()
    reports: asyncio.Queue[InstanceEvent | KvmComposeError] = asyncio.Queue(_WAITING)

    async def listen(runtime: Runtime, host: HostDrivers) -> None:
        try:
            async with aclosing(runtime.events(context, host)) as events:
                async for event in events:
                    await reports.put(event)
        except KvmComposeError as error:
            await reports.put(error)

    used = {
        name: each for name, each in runtimes_of([testbed]).items() if runtimes is None or name in runtimes
    }
    if not used:
        raise KvmComposeError(f"no runtime reports changes of the guests of {context.project}")
    hosts = context.hosts(testbed).values()
    tasks = [
        asyncio.create_task(listen(runtime, host))
        for host in hosts
        for name, runtime in used.items()
        if name in testbed.runtimes.get(host.name, ())
    ]
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
