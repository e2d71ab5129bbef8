"""Run work that may block, above all on files of projects, in threads instead of the event loop.

A folder may be on a file system that does not answer, perhaps on purpose (FUSE, NFS). A read there hangs in
the kernel, and cannot be ended. So each piece of work has a daemon thread to itself, which does not keep the
server from exiting, and takes other work once that has ended. Threads are limited per deployment and per
owner, so that a hanging file system delays only its own users. asyncio's thread pool serves name look-ups
alone.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import cache
from queue import SimpleQueue
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from kvmcompose import guests, networks
from kvmcompose.core.errors import KvmComposeError

#: Concurrent threads for a deployment, and for all deployments of an owner.
PER_DEPLOYMENT, PER_OWNER = 4, 16
#: How long a request may wait for files, in seconds. Actions wait without limit: they can be cancelled.
ANSWER_SECONDS = 20.0
#: Threads that use at least this part of a processor meanwhile compute: they do not wait for files.
_COMPUTES = 0.01


class Account(msgspec.Struct, frozen=True):
    """The deployment and owner that a thread counts for, and how long its files may take, in seconds.

    None: as long as they like. Threads that compute may take longer.
    """

    deployment: str = ""
    owner: int = -1
    seconds: float | None = None


#: Set when a request or an action starts work on a deployment; its tasks inherit it.
account: ContextVar[Account] = ContextVar("account", default=Account())  # noqa: B039 (it is frozen)

P = ParamSpec("P")
T = TypeVar("T")


class _Slots(asyncio.Semaphore):
    """The threads that a deployment, or an owner, may have."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        #: The processor time of work that has ended, in seconds; clocks of threads at work, and their times
        #: when that began.
        self.ended = 0.0
        self.began: dict[int, float] = {}

    def used(self) -> float:
        """Return the processor time of all work until now, in seconds."""
        used = self.ended
        for clock, began in tuple(self.began.items()):
            with suppress(OSError):  # the thread has just ended
                used += time.clock_gettime(clock) - began
        return used


class Threads:
    """Threads for work that may hang. One takes more work when it has ended: to start one takes long.

    They are daemon threads, and there are as many as there is work at a time.
    """

    def __init__(self, most_idle: int) -> None:
        """``most_idle`` is how many stay without work."""
        self._most_idle = most_idle
        self._idle: list[SimpleQueue[tuple[str, Callable[[], None]]]] = []
        os.register_at_fork(after_in_child=self._idle.clear)  # there they do not run

    def begin(self, name: str, work: Callable[[], None]) -> None:
        """Have a thread of this name do some work, which raises nothing."""
        try:
            jobs = self._idle.pop()
        except IndexError:
            jobs = SimpleQueue()
            threading.Thread(target=self._serve, args=(jobs,), daemon=True).start()
        jobs.put((name, work))

    def _serve(self, jobs: SimpleQueue[tuple[str, Callable[[], None]]]) -> None:
        thread = threading.current_thread()
        while True:
            thread.name, work = jobs.get()
            work()
            thread.name = "idle"
            del work
            if len(self._idle) >= self._most_idle:
                return
            self._idle.append(jobs)


_threads = Threads(PER_OWNER)


_Limits = dict[object, _Slots]
_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, _Limits] = WeakKeyDictionary()


class UnansweredError(KvmComposeError):
    """Files did not answer in time."""


async def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``work`` in a thread, and return or raise what it does. Cancelling abandons the thread.

    Raises UnansweredError when the account's time limit expires and no thread of the deployment computes.
    """
    whose = account.get()
    mine = _slots((whose.deployment, whose.owner), PER_DEPLOYMENT)
    running = _run(whose, mine, lambda: work(*args, **kwargs))
    if whose.seconds is None:
        return await running
    task = asyncio.ensure_future(running)
    used = mine.used()
    try:
        while not (await asyncio.wait([task], timeout=whose.seconds))[0]:
            before, used = used, mine.used()
            if used - before < _COMPUTES * whose.seconds:
                what = f"files of {whose.deployment!r}" if whose.deployment else "files"
                raise UnansweredError(
                    f"{what} do not answer: their file system is slow, or hangs",
                    hint="does `ls` work in its folder? Is the server of a network file system down?",
                )
        return task.result()
    finally:
        task.cancel()


def _slots(whose: object, count: int) -> _Slots:
    limits = _limits.setdefault(asyncio.get_running_loop(), {})
    return limits.setdefault(whose, _Slots(count))


async def _run(whose: Account, mine: _Slots, work: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    owners = _slots(whose.owner, PER_OWNER)
    answer: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def free() -> None:
        mine.release()
        owners.release()

    def end(clock: int, seconds: float, result: T | None, error: BaseException | None) -> None:
        free()
        mine.began.pop(clock, None)
        mine.ended += seconds
        if answer.done():  # cancelled
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type] # without an error it is a T

    def run() -> None:
        result, trouble = None, None
        clock = time.pthread_getcpuclockid(threading.get_ident())
        began = mine.began[clock] = time.thread_time()
        try:
            result = context.run(work)
        except BaseException as error:  # noqa: BLE001 (raised in the waiting task)
            trouble = error
        with suppress(RuntimeError):  # the event loop has ended meanwhile
            loop.call_soon_threadsafe(end, clock, time.thread_time() - began, result, trouble)

    _complete_structs()
    # the thread, which may outlive this task, releases both
    await mine.acquire()
    try:
        await owners.acquire()
    except BaseException:
        mine.release()
        raise
    try:
        _threads.begin(f"files of {whose.deployment}", run)
    except BaseException:
        free()
        raise
    return await answer


@cache
def _complete_structs() -> None:
    """Have msgspec resolve the fields of every struct before the first thread starts.

    It resolves them when a class is first decoded, and a second thread that decodes the class meanwhile finds
    them half resolved and reads through a null pointer (msgspec 0.22): the process dies.
    """
    for package in (guests, networks):  # imported on demand otherwise, in those threads
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    classes: list[type[msgspec.Struct]] = [msgspec.Struct]
    for each in classes:
        with suppress(TypeError, NameError, AttributeError):  # not meant to be decoded
            msgspec.json.Decoder(each)
        classes.extend(each.__subclasses__())
