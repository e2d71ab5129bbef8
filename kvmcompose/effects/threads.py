"""Work that may block (files of projects, above all), in threads: never on the event loop.

A folder may be on a file system that does not answer, and may be made so on purpose (FUSE, NFS). A read there
hangs in the kernel, and nothing ends it. So each piece of work has a daemon thread of its own, which keeps
neither the server from ending nor others waiting: threads are counted by deployment and by owner, and whoever
has used theirs up waits, and nobody else. asyncio's own pool of threads is left to look-ups of names.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import cache
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from kvmcompose import guests, networks
from kvmcompose.core.errors import KvmComposeError

#: Threads at a time, for one deployment and for all deployments of one owner.
PER_DEPLOYMENT, PER_OWNER = 4, 16
#: How long a request may have to wait for files, in seconds. Actions wait for as long as it takes: they can
#: be cancelled.
ANSWER_SECONDS = 20.0


class Account(msgspec.Struct, frozen=True):
    """On whose account files are read. ``seconds``: how long they are waited for, None: for ever."""

    deployment: str = ""
    owner: int = -1
    seconds: float | None = None


#: Set where a request or an action begins to work on a deployment; tasks that it starts inherit it.
account: ContextVar[Account] = ContextVar("account", default=Account())  # noqa: B039 (it is frozen)

P = ParamSpec("P")
T = TypeVar("T")
_Limits = dict[object, asyncio.Semaphore]
_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, _Limits] = WeakKeyDictionary()


class UnansweredError(KvmComposeError):
    """Files did not answer in time."""


async def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` returns or raises, called in a thread. Cancelled, the thread is left to itself.

    Raises UnansweredError when the account's time has passed.
    """
    whose = account.get()
    try:
        async with asyncio.timeout(whose.seconds):
            return await _run(whose, lambda: work(*args, **kwargs))
    except TimeoutError as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the work itself: ETIMEDOUT
            raise
        what = f"files of {whose.deployment!r}" if whose.deployment else "files"
        raise UnansweredError(
            f"{what} do not answer: the file system that they are on is slow, or hangs",
            hint="does `ls` answer in its folder? Is a network file system's server down?",
        ) from None


async def _run(whose: Account, work: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    limits = _limits.setdefault(loop, {})
    mine = limits.setdefault((whose.deployment, whose.owner), asyncio.Semaphore(PER_DEPLOYMENT))
    owners = limits.setdefault(whose.owner, asyncio.Semaphore(PER_OWNER))
    answer: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def free() -> None:
        mine.release()
        owners.release()

    def end(result: T | None, error: BaseException | None) -> None:
        free()
        if answer.done():  # nobody waits any more
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type] # without an error it is a T

    def run() -> None:
        result, trouble = None, None
        try:
            result = context.run(work)
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            trouble = error
        with suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(end, result, trouble)

    _complete_structs()
    # what is taken here is given back by the thread, which may outlive whoever waits for it
    await mine.acquire()
    try:
        await owners.acquire()
    except BaseException:
        mine.release()
        raise
    try:
        threading.Thread(target=run, name=f"files of {whose.deployment}", daemon=True).start()
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
        with suppress(TypeError, NameError):  # not meant to be decoded
            msgspec.json.Decoder(each)
        classes.extend(each.__subclasses__())
