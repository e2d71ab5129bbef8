"""Guests that run as containers of their host's engine, and are entered through it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import TypeVar

import msgspec

from kvmcompose.core.access import CONSOLE_BYTES, ConsolePart, GuestTerminals, TerminalSize
from kvmcompose.core.instance import GONE, HostMeasures, Instance, InstanceEvent, Usage
from kvmcompose.core.resource import Ref
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.hosts.terminal import Terminal
from kvmcompose.providers.containers.connection import LOOK_SECONDS
from kvmcompose.providers.containers.interface import EngineFacts
from kvmcompose.providers.containers.interface.containers import ObservedContainer
from kvmcompose.providers.containers.interface.inside import ContainerInside
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.privileges import container_request
from kvmcompose.server.orchestrator.runtimes import (
    _built_images,
    _container_files,
    _container_snapshots,
    check_inside,
)
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

_T = TypeVar("_T")

#: The kind of the resource that is a container.
KIND = "container"
#: States of containers (``ObservedContainer``) in the words of ``Instance``; others are off.
_STATES, _OFF = {"running": "running", "paused": "paused"}, "shut off"
#: Statuses of a command that cannot be started (docker-exec(1)).
_CANNOT_START = (126, 127)
#: How long the ``sh`` of a container may take to do nothing, in seconds: it may be any program.
_CHECK_SECONDS = 30
#: As the login of a virtual machine does it: a user works in their home folder.
_AT_HOME = 'cd ~ 2>/dev/null; exec "$@"'
#: The best shell of a container.
_SHELL = ("sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh")

engine = _container_files.engine
get = _container_files.get
put = _container_files.put
is_in_snapshots = _container_snapshots.is_in_snapshots
being_restored = _container_snapshots.being_restored
note_restoring = _container_snapshots.note_restoring
check_snapshot = _container_snapshots.check_snapshot
snapshot = _container_snapshots.snapshot
snapshots = _container_snapshots.snapshots
kept_snapshots = _container_snapshots.kept_snapshots


class ContainerInstance(Instance, frozen=True, kw_only=True, gc=False):
    """A container of a guest, with what the engine says of it."""

    container: ObservedContainer


async def purge(context: Context, host: HostDrivers) -> Sequence[str]:
    """Remove the images that the project made on a host: snapshots, and what was built."""
    await _container_snapshots.purge(context, host)
    return await _built_images.purge(context, host)


def instance(guest: LoadedGuest) -> Ref:
    """Return the reference of a guest's container."""
    return Ref(KIND, guest.state.domain, guest.state.testbed_host)


async def instances(context: Context, host: HostDrivers) -> Mapping[str, ContainerInstance]:
    """Return the project's containers on a host."""
    found = await host.engine.containers.observe(context.project)
    now = time.time()
    return {name: _instance(each, now) for name, each in found.items()}


def _instance(each: ObservedContainer, now: float) -> ContainerInstance:
    state = _STATES.get(each.state, _OFF)
    return ContainerInstance(
        name=each.name,
        guest=each.guest,
        state=state,
        reason=each.reason,
        made=each.made,
        uptime=max(0.0, now - each.started) if each.started is not None and state == "running" else None,
        boot=f"{each.started:.6f}" if each.started is not None else "",
        container=each,
    )


async def events(context: Context, host: HostDrivers) -> AsyncGenerator[InstanceEvent]:
    """Yield the state of each of the project's containers, and then what its engine reports."""
    healths: dict[str, str] = {}
    async with aclosing(host.engine.containers.events(context.project)) as containers:
        async for each in containers:
            if healths.get(each.id) not in (None, each.health):
                # what was seen within its interval is out of date
                context.health.seen.pop((context.project, each.guest), None)
            healths[each.id] = each.health
            if each.state == GONE:
                del healths[each.id]
            now = _instance(each, time.time())
            state = GONE if each.state == GONE else now.state
            yield InstanceEvent(name=now.name, guest=now.guest, state=state, reason=now.reason, boot=now.boot)


async def usage(context: Context, host: HostDrivers) -> Mapping[str, Usage]:
    """Return what the project's containers on a host use: a call to the engine for each."""
    return await host.engine.containers.usage(context.project)


async def measure(host: HostDrivers) -> HostMeasures:
    """Return what the containers of all projects on a host have used: a call to the engine for each."""
    found = await host.engine.measure()
    return HostMeasures(
        size=found.size,
        instances=tuple(
            msgspec.structs.replace(each, state=_STATES.get(each.state, _OFF)) for each in found.instances
        ),
    )


async def size(_context: Context, host: HostDrivers) -> EngineFacts:
    """Return what the engine says of a host."""
    return await host.engine.facts()


class ContainerEntrance:
    """See ``Entrance``. Without a user, commands run as the one that the container is made for."""

    def __init__(self, inside: ContainerInside, project: str, guest: LoadedGuest) -> None:
        self._inside = inside
        self._project = project
        self._name = guest.state.domain
        self.guest = guest.name
        self.notes = guest.state.identity
        self.by_hand = f"kvm-compose ssh {guest.name}"

    async def run(
        self,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str | None = None,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command and return its exit status."""
        words = argv if user in (None, "root") else ["sh", "-c", _AT_HOME, "sh", *argv]
        return await self._inside.run(
            self._project, self._name, words, on_line, user=user or "", seconds=seconds, stdin=stdin
        )

    async def check_user(self, user: str | None) -> None:
        """Raise DriverError when commands cannot run as this user."""
        if user is None:
            return
        printed: deque[str] = deque(maxlen=1)
        argv = ["sh", "-c", "true"]
        status = await self._inside.run(
            self._project, self._name, argv, printed.append, user=user, seconds=_CHECK_SECONDS
        )
        if status in _CANNOT_START:
            why = printed[-1] if printed else "no reason given"
            raise DriverError(
                f"cannot run commands as {user} in {self.guest}: {why}",
                hint=f"its users: kvm-compose exec {self.guest} -- cut -d: -f1 /etc/passwd",
            )

    async def wait_ready(self, seconds: float) -> None:
        """A container that runs can be entered."""


async def entrance(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> ContainerEntrance:
    """Return the way into a guest."""
    return ContainerEntrance(context.host_of(guest, testbed).engine.inside, context.project, guest)


def is_waited_for(guest: LoadedGuest) -> bool:
    """Return whether something is to run in the guest."""
    return guest.run is not None and bool(guest.run.setup_scripts or guest.run.run_scripts)


async def wait(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> None:
    """A container that was started can be entered, unless it has ended since."""
    containers = context.host_of(guest, testbed).engine.containers
    check_runs(guest, await containers.container(context.project, guest.state.domain))


def check_runs(guest: LoadedGuest, found: ObservedContainer) -> None:
    """Raise DriverError for a container that has ended."""
    if found.pid:
        return
    raise DriverError(
        f"{guest.name} has ended" + (f": {found.reason}" if found.reason else ""),
        hint=f"what it printed: kvm-compose logs {guest.name}",
    )


async def check_health(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, seconds: float) -> str:
    """Return what the engine says; as long as that is nothing, run the healthcheck.

    Docker's first check comes after an interval, and Podman without systemd makes none.
    """
    containers = context.host_of(guest, testbed).engine.containers
    found = await containers.container(context.project, guest.state.domain)
    if found.health == "unhealthy":
        return found.health_reason or "as its engine says"
    if found.health == "healthy":
        return ""
    return await check_inside(context, testbed, guest, seconds)


async def console(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, after: int | None, wait: int
) -> ConsolePart:
    """Return a part of what the container has printed, as lines. Its engine has the newest of it."""
    inside = context.host_of(guest, testbed).engine.inside
    where = (inside, context.project, guest.state.domain)
    part = await _in_time(_printed(*where, after), guest)
    if after is not None and not part.data and wait:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                part = await _printed(*where, part.start, follow=True)
    return part


async def terminals(_context: Context, _testbed: LoadedTestbed, _guest: LoadedGuest) -> GuestTerminals:
    """Return that there is what it prints, and a shell."""
    return GuestTerminals(console="output", shell=True)  # noqa: S604 (no argument of subprocess)


async def shell(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, size: TerminalSize
) -> AbstractAsyncContextManager[Terminal]:
    """Return bash if the container has it, or sh, where its image lets programs start (``WORKDIR``)."""
    inside = context.host_of(guest, testbed).engine.inside
    return inside.terminal(context.project, guest.state.domain, _SHELL, size)


async def _printed(
    inside: ContainerInside, project: str, name: str, after: int | None, *, follow: bool = False
) -> ConsolePart:
    """Return what was printed from an offset in bytes, or the end of it, of one container's output.

    With ``follow`` this waits for something. Where there is less than that, it is another container, or its
    engine has dropped the oldest: the end of it.
    """
    position, found = 0, bytearray()
    async with aclosing(inside.logs(project, name, follow=follow)) as lines:
        async for line in lines:
            data = line.encode(errors="replace") + b"\n"
            begin, position = position, position + len(data)
            if after is None:
                found += data
                del found[:-CONSOLE_BYTES]
            elif position > after:
                found += data[max(0, after - begin) :]
                if follow or len(found) >= CONSOLE_BYTES:
                    break
    if after is not None and position < after and not follow:
        return await _printed(inside, project, name, None)
    return ConsolePart(start=position - len(found), data=bytes(found))


async def _in_time(reading: Awaitable[_T], guest: LoadedGuest) -> _T:
    """Return what is read of a log, unless it does not end. Raises DriverError."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await reading
    except TimeoutError:
        raise DriverError(
            f"the log of {guest.name} does not end within {LOOK_SECONDS:g} s",
            hint="is there very much of it? Restart the guest for a new one",
        ) from None


async def console_end(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, count: int
) -> tuple[str, str]:
    """Return where what it printed is to be had, and the last lines."""
    inside = context.host_of(guest, testbed).engine.inside
    found: deque[str] = deque(maxlen=count)

    async def read() -> None:
        async with aclosing(inside.logs(context.project, guest.state.domain, tail=count)) as lines:
            async for line in lines:
                found.append(line)

    await _in_time(read(), guest)
    return f"kvm-compose logs {guest.name}", "\n".join(found)


def check_privileges(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> None:
    """Check the request that creates the container."""
    container_request(context, testbed, guest)
