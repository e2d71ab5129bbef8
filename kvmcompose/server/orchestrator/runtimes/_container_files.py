"""Files of containers, and the engine that others reach them by."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from kvmcompose.core.access import EngineAccess
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import Pieces
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed


async def get(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, path: str
) -> AsyncGenerator[bytes]:
    """Yield a tar archive of a file or folder of a container, running or not."""
    inside = context.host_of(guest, testbed).engine.inside
    async with aclosing(inside.get(context.project, guest.state.domain, path)) as archive:
        async for piece in archive:
            yield piece


async def put(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, folder: str, archive: Pieces
) -> None:
    """Extract a tar archive in a folder of a container, running or not."""
    inside = context.host_of(guest, testbed).engine.inside
    await inside.put(context.project, guest.state.domain, folder, archive)


async def engine(context: Context, testbed: LoadedTestbed, host: str) -> EngineAccess | None:
    """Return which program the engine of a host is; None when it does not answer."""
    configured = testbed.state.testbed_hosts[host].container_engine
    try:
        facts = await context.host(testbed.state.testbed_hosts[host]).engine.facts()
    except DriverError:
        return None
    program: Literal["docker", "podman"] = "podman" if facts.engine == "Podman" else "docker"
    path = configured if configured is not None and configured.startswith("/") else None
    return EngineAccess(program=program, socket=path)
