"""A connection to one libvirt that survives a restart of libvirtd, for callers that must not block.

libvirt's calls block; they run in the connection's own threads. Events come from libvirt's own event loop,
which one thread of the process runs from the first connection on. That loop also exchanges the keepalive
messages that tell a dead connection from a slow one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

import libvirt

from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

#: libvirtd accepts five requests of one client at a time (max_client_requests in libvirtd.conf), and then
#: reads nothing more from that client, keepalive messages included.
_AT_ONCE = 4
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 6
_COME_BACK_SECONDS = 15.0
_PAUSE_SECONDS = 0.2
#: How long to wait for an event of a domain before it is asked again, in seconds.
LOOK_AGAIN = 5.0

_REFUSED = {
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_ACCESS_DENIED,
}
#: Words in libvirt's messages, and a hint for each.
_HINTS = (
    ("ermission denied", "can libvirt's QEMU enter the project folder and the image store? chmod o+x them"),
    ("Cannot access storage file", "does it exist? kvm-compose generate builds artefacts"),
    ("Cannot access backing file", "does it exist? kvm-compose generate links images again"),
    ("does not support KVM", "set virt_type to qemu or auto in kvm-compose-config.json"),
    ("domain type kvm", "set virt_type to qemu or auto in kvm-compose-config.json"),
    (
        "cannot acquire state change lock",
        "another request holds it; if that lasts, sudo systemctl restart libvirtd",
    ),
    ("has been disabled", "the guest's agent forbids this command: see BLACKLIST_RPC, or block-rpcs, there"),
    ("Cannot set up guest memory", "the host has too little memory for another guest"),
    ("No space left on device", "make room on the host: df -h"),
    (
        "hugetlbfs filesystem is not mounted",
        "mount -t hugetlbfs none /dev/hugepages, and restart libvirtd, which looks for it when it starts",
    ),
    (
        "while writing VM state",
        "is the host's disk full? What was written stays in it until another snapshot is created and deleted",
    ),
)


@functools.cache
def _run_events() -> None:
    """Start the event loop: once per process, before the first connection is opened."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print errors itself
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


class Connection:
    """A connection to one libvirt, opened by the first call."""

    def __init__(self, uri: LibvirtUri, where: str, runner: CommandRunner) -> None:
        """``where`` names this libvirt in messages; ``runner`` is that of its host."""
        self.uri = uri
        self._where = where
        self._runner = runner
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="libvirt")
        self._guard = threading.Lock()
        self._open: Any = None
        self._answered = False
        self._closed = False
        self._watchers: dict[str, set[Callable[[], None]]] = {}
        self._listeners: set[Callable[[str | None], None]] = set()

    async def call(
        self, doing: str, work: Callable[Concatenate[Any, _P], _Result], *args: _P.args, **kwargs: _P.kwargs
    ) -> _Result:
        """Call ``work`` with an open connection and these arguments, in a thread.

        ``doing`` describes it in messages: "cannot ``doing``". When the connection was lost and can be opened
        again within some seconds, ``work`` is called again. A cancelled call is waited for all the same,
        because libvirt cannot cancel it. Raises DriverError.
        """
        return await self._call(doing, lambda opened: work(opened, *args, **kwargs), repeatable=True)

    async def call_once(
        self, doing: str, work: Callable[Concatenate[Any, _P], _Result], *args: _P.args, **kwargs: _P.kwargs
    ) -> _Result:
        """Like ``call``, for work that must not be repeated."""
        return await self._call(doing, lambda opened: work(opened, *args, **kwargs), repeatable=False)

    async def on_domain(
        self,
        doing: str,
        domain: str,
        work: Callable[Concatenate[Any, _P], _Result],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _Result:
        """Like ``call``, with the domain of that name. Raises DriverError when there is none."""
        return await self.call(doing, lambda opened: work(self._find(opened, doing, domain), *args, **kwargs))

    async def on_domain_once(
        self,
        doing: str,
        domain: str,
        work: Callable[Concatenate[Any, _P], _Result],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _Result:
        """Like ``on_domain``, for work that must not be repeated."""
        return await self.call_once(
            doing, lambda opened: work(self._find(opened, doing, domain), *args, **kwargs)
        )

    def _find(self, opened: Any, doing: str, name: str) -> Any:
        domain = lookup(opened, name)
        if domain is None:
            raise DriverError(
                f"cannot {doing}: there is no domain {name} on {self._runner.name}",
                hint="kvm-compose up creates the domains",
            )
        return domain

    async def _call(self, doing: str, work: Callable[[Any], _Result], *, repeatable: bool) -> _Result:
        await self._runner.reach()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, self._attempt, doing, work, repeatable)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # mark it as retrieved for asyncio
            raise

    @contextlib.contextmanager
    def watch(self, domain: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the domain's state, its devices or its agent change."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(changed.set)

        with self._guard:
            self._watchers.setdefault(domain, set()).add(notify)
        try:
            yield changed
        finally:
            with self._guard:
                self._watchers[domain].discard(notify)
                if not self._watchers[domain]:
                    del self._watchers[domain]

    @contextlib.contextmanager
    def listen(self) -> Iterator[asyncio.Queue[str | None]]:
        """Yield a queue of the names of domains that have changed their state.

        None: the connection was lost, and with it any number of changes.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def notify(domain: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(queue.put_nowait, domain)

        with self._guard:
            self._listeners.add(notify)
        try:
            yield queue
        finally:
            with self._guard:
                self._listeners.discard(notify)

    async def close(self) -> None:
        """Close the connection for good."""
        self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._drop, self._open)
        self._pool.shutdown(wait=False)

    def _attempt(self, doing: str, work: Callable[[Any], _Result], repeatable: bool) -> _Result:
        deadline: float | None = None
        while True:
            connection = None
            try:
                connection = self._connected()
                return work(connection)
            except libvirt.libvirtError as error:
                if not _is_loss(connection, error):
                    raise failure(doing, error) from None
                self._drop(connection)
                deadline = deadline or time.monotonic() + _COME_BACK_SECONDS
                if connection is not None and not repeatable:
                    raise DriverError(
                        f"cannot {doing}: the connection to libvirt {self._where} was lost meanwhile,"
                        f" and the outcome is unknown: {words(error)}"
                    ) from None
                if self._closed or not self._answered or time.monotonic() > deadline:
                    raise _unreachable(self._where, doing, error) from None
                time.sleep(_PAUSE_SECONDS)

    def _connected(self) -> Any:
        with self._guard:
            if self._open is not None:
                return self._open
            _run_events()
            connection = libvirt.open(str(self.uri))
            connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
            connection.registerCloseCallback(self._on_close, None)
            for kind, callback in (
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
                (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._on_device_removed),
                (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._on_agent),
            ):
                connection.domainEventRegisterAny(None, kind, callback, None)
            self._open, self._answered = connection, True
            return connection

    def _drop(self, connection: Any) -> None:
        """Close a connection, unless another one was opened meanwhile."""
        with self._guard:
            if connection is None or connection is not self._open:
                return
            self._open = None
        with contextlib.suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()

    # called in the thread that runs the event loop

    def _on_lifecycle(self, _connection: Any, domain: Any, _event: int, _detail: int, _opaque: None) -> None:
        self._wake(domain.name())
        self._tell(domain.name())

    def _on_device_removed(self, _connection: Any, domain: Any, _device: str, _opaque: None) -> None:
        self._wake(domain.name())

    def _on_agent(self, _connection: Any, domain: Any, _state: int, _reason: int, _opaque: None) -> None:
        self._wake(domain.name())

    def _on_close(self, _connection: Any, _reason: int, _opaque: None) -> None:
        self._tell(None)

    def _wake(self, domain: str) -> None:
        with self._guard:
            watchers = tuple(self._watchers.get(domain, ()))
        for notify in watchers:
            notify()

    def _tell(self, domain: str | None) -> None:
        with self._guard:
            listeners = tuple(self._listeners)
        for notify in listeners:
            notify(domain)


def lookup(connection: Any, name: str) -> Any:
    """Return the domain of that name, or None."""
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


@contextlib.contextmanager
def unless_so_already(*codes: int) -> Iterator[None]:
    """Ignore errors of these codes: the requested state exists already."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise


def words(error: libvirt.libvirtError) -> str:
    """Return libvirt's message without its internal prefixes."""
    text = error.get_error_message() or str(error)
    for opening in ("internal error: ", "operation failed: ", "Requested operation is not valid: "):
        text = text.removeprefix(opening)
    return str(text)


def failure(doing: str, error: libvirt.libvirtError) -> DriverError:
    """Return the DriverError for an error of libvirt."""
    text = words(error)
    hint = next((hint for mark, hint in _HINTS if mark in text), None)
    return DriverError(f"cannot {doing}: {text}", hint=hint)


def _is_loss(connection: Any, error: libvirt.libvirtError) -> bool:
    """Return whether the connection failed, not the request."""
    if error.get_error_code() in _REFUSED or "ermission denied" in str(error):
        return False
    if connection is None or error.get_error_domain() == libvirt.VIR_FROM_RPC:
        return True
    try:
        return not connection.isAlive()
    except libvirt.libvirtError:
        return True


def _unreachable(where: str, doing: str, error: libvirt.libvirtError) -> DriverError:
    return DriverError(
        f"cannot {doing}: libvirt does not answer {where}: {words(error)}",
        hint="sudo systemctl enable --now libvirtd"
        + (" there; is the user in the group libvirt?" if where.startswith("on ") else ""),
    )
