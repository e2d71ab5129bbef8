"""Runtimes: what runs guests, and how these are looked at and entered.

One module each, found by its file name and listed nowhere. ``DeployableGuest.runtime`` names that of a guest.
A module (also one in ``runtimes/`` of a plug-in folder) offers:

``instance(guest)``                          the reference of the resource that is the guest when it runs
``instances(context, host)``                 what it runs of the project on a host, by name, in few calls
``usage(context, host)``                     what they use, by name, if not in ``instances``; optional
``measure(host)``                            what the instances of all projects have used; optional
``events(context, host)``                    yields their states, and changes of them; optional
``size(context, host)``                      how large a host is, as it sees it; optional
``entrance(context, testbed, guest)``        the way into a guest that runs; optional
``is_entered_by_agent(guest)``               whether that is a guest agent; optional
``check_health(context, testbed, guest, seconds)``  why the guest is not healthy now; without it, its
                                             healthcheck runs in it
``is_waited_for(guest)``                     whether ``up`` waits for a guest that was started; optional
``wait(context, testbed, guest)``            waits until it can be worked with, likewise
``console(context, testbed, guest, …)``      a part of what its console has printed; optional
``console_end(context, testbed, guest, n)``  the name of its console, and the last lines of it; optional
``terminals(context, testbed, guest)``       what of it can be seen in a terminal and on a screen; optional
``open_console(context, testbed, guest, force)``  its console, in both directions; optional
``open_screen(context, testbed, guest)``     its screen, by VNC; optional
``shell(context, testbed, guest, size)``      a shell in it, with a terminal; optional
``reach(context, testbed, guest)``           a connection to its SSH server; optional
``engine(context, testbed, host)``           the container engine that runs its guests on a host; optional
``get(context, testbed, guest, path)``         yields a tar archive of one of its files or folders; optional
``put(context, testbed, guest, folder, archive)``  extracts a tar archive in one of its folders; likewise
``check_privileges(context, testbed, guest)``  refuses what only an administrator's guest may do; without it,
                                             only administrators' testbeds have such guests
``is_in_snapshots(guest)``                   whether a snapshot of the testbed is one of it, too; optional
``check_snapshot(guest, command, state)``    refuses what cannot be done with snapshots of it, likewise
``snapshot(context, testbed, guest, command, step)``  makes, restores or deletes one, likewise
``snapshots(context, testbed, guest)``       those of a guest that is there, likewise
``kept_snapshots(context, guest)``           those of a guest that is down, likewise
``purge(context, host)``                     removes what it keeps of guests that are down, likewise

What makes and removes instances is a provider in ``resources``, of a kind with ``RUNS``. Modules whose names
start with ``_`` are shared between runtimes.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from kvmcompose.core.access import GuestTerminals
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.plug_ins import with_defaults
from kvmcompose.effects.resources import plugin_folders
from kvmcompose.hosts.errors import DriverError, HostLostError, NotInstalledError
from kvmcompose.hosts.lines import Pieces

if TYPE_CHECKING:
    import socket
    from contextlib import AbstractAsyncContextManager

    from kvmcompose.core.access import ConsolePart, EngineAccess, TerminalSize
    from kvmcompose.core.commands import Snapshot
    from kvmcompose.core.deployment import SnapshotStatus
    from kvmcompose.core.instance import HostMeasures, HostSize, Instance, InstanceEvent, Usage
    from kvmcompose.core.resource import Ref
    from kvmcompose.hosts.terminal import Terminal
    from kvmcompose.providers.drivers import HostDrivers
    from kvmcompose.providers.guest.interface import Entrance
    from kvmcompose.server.action_log import RunningStep
    from kvmcompose.server.orchestrator.context import Context
    from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

__path__.extend(str(each / "runtimes") for each in plugin_folders() if (each / "runtimes").is_dir())


_T = TypeVar("_T")

#: How long a host without guests of a runtime is asked for such guests, in seconds.
_UNEXPECTED_SECONDS = 5


class Runtime(Protocol):
    """What a module in this package offers; see above."""

    def instance(self, guest: LoadedGuest) -> Ref:
        """Return the reference of the resource that is the guest when it runs."""

    async def instances(self, context: Context, host: HostDrivers) -> Mapping[str, Instance]:
        """Return the project's instances on a host by name, running or not. Raises DriverError."""

    async def size(self, context: Context, host: HostDrivers) -> HostSize | None:
        """Return the CPUs and the memory of a host, None where it knows of none. Raises DriverError."""

    async def usage(self, context: Context, host: HostDrivers) -> Mapping[str, Usage]:
        """Return what the project's instances on a host use, by name. Raises DriverError."""

    async def measure(self, host: HostDrivers) -> HostMeasures | None:
        """Return what the instances of all projects on a host have used, in one look; None: it cannot say.

        Raises DriverError.
        """

    def events(self, context: Context, host: HostDrivers) -> AsyncGenerator[InstanceEvent]:
        """Yield the state of each instance, and then each other state that one gets into.

        Raises KvmComposeError where nothing reports that.
        """

    async def entrance(self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> Entrance:
        """Return the way into a guest that runs. Raises RefusedError for one that cannot be entered."""

    def is_entered_by_agent(self, guest: LoadedGuest) -> bool:
        """Return whether a guest agent is the way into the guest, where it has one."""

    async def check_health(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest, seconds: float
    ) -> str:
        """Return why a guest with a healthcheck is not healthy, "" if it is, within ``seconds``.

        Raises KvmComposeError when that cannot be found out.
        """

    def is_waited_for(self, guest: LoadedGuest) -> bool:
        """Return whether the guest says when it is ready, and that can be noticed."""

    async def wait(self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> None:
        """Wait until a guest that was started is ready. Raises DriverError when it is not in time."""

    async def console(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest, after: int | None, wait: int
    ) -> ConsolePart:
        """Return what its console has printed from an offset, or the end of it.

        Where it has printed nothing since, this waits for it, at most ``wait`` seconds.
        """

    async def console_end(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest, count: int
    ) -> tuple[str, str]:
        """Return where its console is recorded, and the last ``count`` lines; empty where it is not."""

    async def terminals(self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> GuestTerminals:
        """Return what of the guest can be seen in a terminal and on a screen. Raises DriverError."""

    async def open_console(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest, *, force: bool
    ) -> socket.socket:
        """Return a socket, which does not block, that is its console; of what is not read, the newest stays.

        ``force``: take it from another user. Raises ConsoleTakenError; RefusedError where it takes no input
        now, which says why; DriverError.
        """

    async def open_screen(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest
    ) -> socket.socket:
        """Return a socket, which does not block, that is a VNC connection (RFC 6143) to its screen.

        Raises RefusedError for a guest without one, DriverError.
        """

    async def shell(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest, size: TerminalSize
    ) -> AbstractAsyncContextManager[Terminal]:
        """Return a shell in a guest that runs, which opens and ends with the context.

        Raises RefusedError for one that has none; opening it raises DriverError.
        """

    async def reach(self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> socket.socket:
        """Return a connection to the guest's SSH server. Raises RefusedError, DriverError."""

    async def engine(self, context: Context, testbed: LoadedTestbed, host: str) -> EngineAccess | None:
        """Return the container engine of a host, for programs that use it themselves; None for none."""

    def get(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest, path: str
    ) -> AsyncGenerator[bytes]:
        """Yield a tar archive of a file or folder, or of the link of that name, which is its first entry.

        Relative paths are below ``/``. Raises NoSuchPathError, DriverError.
        """

    async def put(
        self,
        context: Context,
        testbed: LoadedTestbed,
        guest: LoadedGuest,
        folder: str,
        archive: Pieces,
    ) -> None:
        """Extract a tar archive in a folder. Raises NoSuchPathError, DriverError, what ``archive`` raises.

        The archive may come slowly, and break off.
        """

    def check_privileges(self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> None:
        """Raise RefusedError for what the guest would do to its host, where its owner is no administrator."""

    def is_in_snapshots(self, guest: LoadedGuest) -> bool:
        """Return whether a snapshot of the testbed is one of the guest, too."""

    def check_snapshot(self, guest: LoadedGuest, command: Snapshot, state: str) -> None:
        """Raise RefusedError for what cannot be done, whatever snapshots the guest has.

        ``state`` is that of what runs it, in the words of its runtime.
        """

    async def snapshot(
        self,
        context: Context,
        testbed: LoadedTestbed,
        guest: LoadedGuest,
        command: Snapshot,
        step: RunningStep,
    ) -> None:
        """Make a snapshot, restore it or delete it."""

    async def snapshots(
        self, context: Context, testbed: LoadedTestbed, guest: LoadedGuest
    ) -> Sequence[SnapshotStatus]:
        """Return the snapshots of a guest that is there."""

    def kept_snapshots(self, context: Context, guest: LoadedGuest) -> Sequence[SnapshotStatus]:
        """Return those that were kept of a guest that is down."""

    async def purge(self, context: Context, host: HostDrivers) -> Sequence[str]:
        """Remove from a host what is kept of the project's guests when these are down: ``down --purge``.

        Returns what stays all the same, with the reason.
        """


@cache
def runtimes() -> Mapping[str, Runtime]:
    """Return all runtimes by name, those of plug-ins included."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: _module(name) for name in names if not name.startswith("_")}


def runtime_of(guest: LoadedGuest) -> Runtime:
    """Return what runs a guest that can run."""
    assert guest.run is not None  # noqa: S101 (others are not looked for)
    found = runtimes().get(guest.run.runtime)
    if found is None:
        raise KvmComposeError(
            f"there is no runtime {guest.run.runtime!r}, which {guest.state.kind} guests name",
            hint=f"there are: {', '.join(runtimes())}",
        )
    return found


def runtimes_of(testbeds: Iterable[LoadedTestbed]) -> Mapping[str, Runtime]:
    """Return the runtimes of the guests of some testbeds; all, where there is no testbed to name any."""
    known = list(testbeds)
    if not known:
        return runtimes()
    guests = {guest.run.runtime: guest for each in known for guest in each.guests.values() if guest.run}
    return {name: runtime_of(guest) for name, guest in sorted(guests.items())}


async def answer_of(
    runtime: str,
    testbeds: Sequence[LoadedTestbed],
    host: str,
    ask: Callable[[], Awaitable[_T]],
    nothing: _T,
) -> _T:
    """Ask what a runtime has on a host, where guests of these testbeds have that runtime; else ``nothing``.

    A host without such guests need not have what runs them: where it does not answer there, there is nothing.
    Without testbeds all hosts are asked. Raises DriverError.
    """
    if testbeds and not any(runtime in names for each in testbeds for names in each.runtimes.values()):
        return nothing
    expected = any(runtime in each.runtimes.get(host, ()) for each in testbeds)
    try:
        async with asyncio.timeout(None if expected or not testbeds else _UNEXPECTED_SECONDS):
            return await ask()
    except HostLostError:
        raise
    except NotInstalledError:
        if expected:
            raise
    except (DriverError, TimeoutError):
        if expected or not testbeds:
            raise
    return nothing


def _module(name: str) -> Runtime:
    module = importlib.import_module(f"{__name__}.{name}")
    defaults = {
        "size": _no_size,
        "usage": _no_usage,
        "measure": _no_measures,
        "events": _no_events,
        "entrance": _no_entrance,
        "check_health": check_inside,
        "is_entered_by_agent": _no,
        "is_waited_for": _no,
        "wait": _no_wait,
        "console": _no_console,
        "console_end": _no_console_end,
        "terminals": _no_terminals,
        "open_console": _no_open_console,
        "open_screen": _no_screen,
        "shell": _no_shell,
        "reach": _no_reach,
        "engine": _no_engine,
        "get": _no_get,
        "put": _no_put,
        "check_privileges": _not_for_members,
        "is_in_snapshots": _no,
        "check_snapshot": _no_snapshot,
        "snapshots": _no_snapshots,
        "kept_snapshots": _none_kept,
        "purge": _no_purge,
    }
    return cast("Runtime", with_defaults(module, defaults))


async def _no_size(_context: Context, _host: HostDrivers) -> None:
    """Return None: the default."""


async def _no_usage(_context: Context, _host: HostDrivers) -> dict[str, Usage]:
    """Return nothing: the default, for runtimes whose instances say it."""
    return {}


async def _no_measures(_host: HostDrivers) -> None:
    """Return None: the default."""


async def _no_events(_context: Context, host: HostDrivers) -> AsyncGenerator[InstanceEvent]:
    """Fail: the default."""
    raise KvmComposeError(f"not all changes of guests on {host.name} are reported")
    yield  # so that it is a generator


async def _no_entrance(_context: Context, _testbed: LoadedTestbed, guest: LoadedGuest) -> Entrance:
    """Refuse: the default."""
    raise RefusedError(f"{guest.name} is a {guest.state.kind} guest: no command can run in it")


async def check_inside(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, seconds: float) -> str:
    """Run its healthcheck in the guest: the default. What that prints is dropped, as nobody would read it."""
    check = guest.state.healthcheck
    assert check is not None  # noqa: S101 (others are not checked)
    entrance = await runtime_of(guest).entrance(context, testbed, guest)
    status = await entrance.run(check.argv, lambda _line: None, seconds=seconds)
    return f"exit status {status}" if status else ""


def _no(_guest: LoadedGuest) -> bool:
    """Return False: the default."""
    return False


async def _no_wait(_context: Context, _testbed: LoadedTestbed, _guest: LoadedGuest) -> None:
    """Return at once: the default."""


async def _no_console(
    _context: Context, _testbed: LoadedTestbed, guest: LoadedGuest, _after: int | None, _wait: int
) -> ConsolePart:
    """Refuse: the default."""
    raise RefusedError(f"{guest.name} is a {guest.state.kind} guest: it has no console")


async def _no_console_end(
    _context: Context, _testbed: LoadedTestbed, _guest: LoadedGuest, _count: int
) -> tuple[str, str]:
    """Return nothing: the default."""
    return "", ""


async def _no_terminals(_context: Context, _testbed: LoadedTestbed, _guest: LoadedGuest) -> GuestTerminals:
    """Return that there is nothing: the default."""
    return GuestTerminals()


async def _no_open_console(
    _context: Context, _testbed: LoadedTestbed, guest: LoadedGuest, *, force: bool
) -> socket.socket:
    """Refuse: the default, whether or not to ``force`` it."""
    del force
    raise RefusedError(
        f"what {guest.name} prints is shown; it takes no input",
        hint=f"to enter it: kvm-compose exec {guest.name} -- COMMAND",
    )


async def _no_screen(_context: Context, _testbed: LoadedTestbed, guest: LoadedGuest) -> socket.socket:
    """Refuse: the default."""
    raise RefusedError(f"{guest.name} is a {guest.state.kind} guest: it has no screen")


async def _no_shell(
    _context: Context, _testbed: LoadedTestbed, guest: LoadedGuest, _size: TerminalSize
) -> AbstractAsyncContextManager[Terminal]:
    """Refuse: the default."""
    raise RefusedError(
        f"the server opens no shell in {guest.name}, a {guest.state.kind} guest",
        hint=f"kvm-compose ssh {guest.name}, or console, or exec",
    )


async def _no_reach(_context: Context, _testbed: LoadedTestbed, guest: LoadedGuest) -> socket.socket:
    """Refuse: the default."""
    raise RefusedError(
        f"{guest.name} is a {guest.state.kind} guest: it is not entered by SSH",
        hint=f"kvm-compose exec {guest.name} -- COMMAND",
    )


async def _no_engine(_context: Context, _testbed: LoadedTestbed, _host: str) -> EngineAccess | None:
    """Return none: the default."""
    return None


async def _no_get(
    _context: Context, _testbed: LoadedTestbed, guest: LoadedGuest, _path: str
) -> AsyncGenerator[bytes]:
    """Refuse: the default."""
    raise _no_files(guest)
    yield  # so that it is a generator


async def _no_put(
    _context: Context,
    _testbed: LoadedTestbed,
    guest: LoadedGuest,
    _folder: str,
    _archive: Pieces,
) -> None:
    """Refuse: the default."""
    raise _no_files(guest)


def _no_files(guest: LoadedGuest) -> RefusedError:
    return RefusedError(
        f"{guest.name} is a {guest.state.kind} guest: the server copies no files to or from it",
        hint=f"where it can be entered: kvm-compose exec -i {guest.name} -- COMMAND, or kvm-compose ssh",
    )


def _not_for_members(_context: Context, _testbed: LoadedTestbed, guest: LoadedGuest) -> None:
    """Refuse: the default, as nothing says what such a guest does to its host."""
    raise RefusedError(f"only an administrator's testbed may have {guest.state.kind} guests: {guest.name}")


def _no_snapshot(guest: LoadedGuest, _command: Snapshot, _state: str) -> None:
    """Refuse: the default."""
    raise RefusedError(f"{guest.name} is a {guest.state.kind} guest: there are no snapshots of it")


async def _no_snapshots(
    _context: Context, _testbed: LoadedTestbed, _guest: LoadedGuest
) -> tuple[SnapshotStatus, ...]:
    """Return none: the default."""
    return ()


async def _no_purge(_context: Context, _host: HostDrivers) -> Sequence[str]:
    """Return that nothing stays: the default."""
    return ()


def _none_kept(_context: Context, _guest: LoadedGuest) -> tuple[SnapshotStatus, ...]:
    """Return none: the default."""
    return ()
