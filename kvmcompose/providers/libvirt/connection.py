"""A connection to one libvirt that comes back after libvirtd did, for callers who must not be blocked.

libvirt's calls block; they run in threads of the connection's own. Its events come from libvirt's own event
loop, which one thread of the process turns from the first connection on: it also answers and sends the
messages that tell a dead connection from a slow one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt

from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts.errors import DriverError

_Result = TypeVar("_Result")

#: libvirtd takes no more than five requests of one client at a time (max_client_requests in libvirtd.conf),
#: and reads nothing more from it then, signs of life included.
_AT_ONCE = 4
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 6
_COME_BACK_SECONDS = 15.0
_PAUSE_SECONDS = 0.2

_REFUSED = {
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_ACCESS_DENIED,
}
#: Words in libvirt's messages, and what helps then.
_HINTS = (
    ("ermission denied", "can libvirt's QEMU enter the project folder and the image store? chmod o+x them"),
    ("Cannot access storage file", "is it there? kvm-compose generate makes artefacts"),
    ("Cannot access backing file", "is it there? kvm-compose generate links images again"),
    ("does not support KVM", "set virt_type to qemu or auto in kvm-compose-config.json"),
    ("domain type kvm", "set virt_type to qemu or auto in kvm-compose-config.json"),
    (
        "cannot acquire state change lock",
        "another request has it; if that lasts, sudo systemctl restart libvirtd",
    ),
    ("Cannot set up guest memory", "the host has too little memory for another guest"),
)


@functools.cache
def _turn_events() -> None:
    """Once per process, and before the first connection is opened."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # or it prints errors itself
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=turn, name="libvirt-events", daemon=True).start()


class Connection:
    """One libvirt. Made without contact; opened by the first call."""

    def __init__(self, uri: LibvirtUri, where: str, reach: Callable[[], Awaitable[None]]) -> None:
        """``where`` is the libvirt as messages name it, ``reach`` raises DriverError when it cannot be."""
        self.uri = uri
        self._where = where
        self._reach = reach
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="libvirt")
        self._guard = threading.Lock()
        self._open: Any = None
        self._answered = False
        self._closed = False
        self._watchers: dict[str, set[Callable[[], None]]] = {}

    async def call(self, doing: str, work: Callable[[Any], _Result], *, repeatable: bool = True) -> _Result:
        """Do something with an open connection, in a thread.

        ``doing`` says what, for messages: they begin "cannot ``doing``". When the connection was lost and
        comes back within some seconds, ``work`` is done again, unless it is not ``repeatable``. A call
        that is cancelled is waited for all the same: nobody can call it back. Raises DriverError.
        """
        await self._reach()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, self._attempt, doing, work, repeatable)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # seen, or asyncio complains
            raise

    @contextlib.contextmanager
    def watch(self, domain: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever libvirt tells of a change in the domain's life."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(changed.set)

        with self._guard:
            self._watchers.setdefault(domain, set()).add(tell)
        try:
            yield changed
        finally:
            with self._guard:
                self._watchers[domain].discard(tell)
                if not self._watchers[domain]:
                    del self._watchers[domain]

    async def close(self) -> None:
        """Close the connection, and do not open it again."""
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
                        f"cannot {doing}: the connection to libvirt {self._where} broke off meanwhile,"
                        f" whatever became of it: {words(error)}"
                    ) from None
                if self._closed or not self._answered or time.monotonic() > deadline:
                    raise _unreachable(self._where, doing, error) from None
                time.sleep(_PAUSE_SECONDS)

    def _connected(self) -> Any:
        with self._guard:
            if self._open is not None:
                return self._open
            _turn_events()
            connection = libvirt.open(str(self.uri))
            connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
            kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
            connection.domainEventRegisterAny(None, kind, self._on_lifecycle, None)
            self._open, self._answered = connection, True
            return connection

    def _drop(self, connection: Any) -> None:
        """Let go of a connection, unless somebody has opened another meanwhile."""
        with self._guard:
            if connection is None or connection is not self._open:
                return
            self._open = None
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()

    def _on_lifecycle(self, _connection: Any, domain: Any, _event: int, _detail: int, _opaque: None) -> None:
        """In the thread that turns the events."""
        with self._guard:
            watchers = tuple(self._watchers.get(domain.name(), ()))
        for tell in watchers:
            tell()


@contextlib.contextmanager
def unless_so_already(*codes: int) -> Iterator[None]:
    """What was asked for is so already, by another's doing or our own of a moment ago."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise


def words(error: libvirt.libvirtError) -> str:
    """What libvirt says, without the words that only its authors need."""
    text = error.get_error_message() or str(error)
    for opening in ("internal error: ", "operation failed: ", "Requested operation is not valid: "):
        text = text.removeprefix(opening)
    return str(text)


def failure(doing: str, error: libvirt.libvirtError) -> DriverError:
    """An error of libvirt as one of ours."""
    text = words(error)
    hint = next((hint for mark, hint in _HINTS if mark in text), None)
    return DriverError(f"cannot {doing}: {text}", hint=hint)


def _is_loss(connection: Any, error: libvirt.libvirtError) -> bool:
    """Whether it is the connection that failed, not what was asked for."""
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
        + (" there; and is the user in the group libvirt?" if where.startswith("on ") else ""),
    )
